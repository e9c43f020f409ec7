"""How a request becomes a prompt: as a conversation, as plain text, as a gap, or as tokens."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from proxy.api.ollama.engine_client import Engine, EngineRefused, Generation
from proxy.api.ollama.request import ParsedRequest
from proxy.dialect.ollama import bodies
from proxy.dialect.ollama.reading import read_chat, read_completion
from proxy.dialect.ollama.reasoning import NO_MARKS, Marks, telling_apart
from proxy.dialect.ollama.requests import ChatMessage, GenerateBody

CHAT: Final = "/v1/chat/completions"
COMPLETION: Final = "/completion"
INFILL: Final = "/infill"
LONGEST_MARK: Final = 64  # tokens, if each were a byte
Prepare = Callable[[ParsedRequest, GenerateBody, Engine], Awaitable[Generation]]


async def as_conversation(asked: ParsedRequest, body: GenerateBody, _: Engine) -> Generation:
    """For a model with a template: the prompt is what a user says."""
    return Generation(CHAT, _conversation(asked, body), read_chat)


async def as_text(asked: ParsedRequest, body: GenerateBody, _: Engine) -> Generation:
    """The prompt as it is; without a template the system prompt stands before it."""
    system = "" if body.raw else body.system or asked.preamble.system
    prompt = f"{system}\n\n{body.prompt}" if system else body.prompt or ""
    return Generation(COMPLETION, bodies.completion(body, prompt, asked.params), read_completion)


async def as_infill(asked: ParsedRequest, body: GenerateBody, _: Engine) -> Generation:
    """What belongs between prompt and suffix."""
    return Generation(INFILL, bodies.infill(body, asked.params), read_completion)


async def after_context(asked: ParsedRequest, body: GenerateBody, engine: Engine) -> Generation:
    """The prompt after the tokens of an earlier answer's `context`."""
    prompt, marks = body.prompt or "", NO_MARKS
    if asked.can.template:
        prompt = await engine.prompt_of(_conversation(asked, body))
        marks = asked.can.marks
    tokens = [*(body.context or ()), *await engine.tokens_of(prompt, begins=False)]
    made = bodies.completion(body, tokens, asked.params)
    if marks.tokens:
        made["preserved_tokens"] = list(marks.tokens)
    read = telling_apart(read_completion, marks, thinks=marks.open_at_end(prompt))
    return Generation(COMPLETION, made, read)


async def context_after(
    marks: Marks, engine: Engine, generation: Generation, text: str
) -> Sequence[int]:
    """The tokens of the prompt and of the `text` that answered it, without the thoughts between."""
    prompt = generation.body.get("prompt")
    if isinstance(prompt, list):
        end = await engine.text_of(prompt[-LONGEST_MARK:])
        return [*prompt, *await engine.tokens_of(marks.closing(end) + text, begins=False)]
    if prompt is None:
        prompt = await engine.prompt_of(generation.body)
    return await engine.tokens_of(prompt + marks.closing(prompt) + text, begins=True)


async def shortened(
    engine: Engine,
    messages: Sequence[ChatMessage],
    make: Callable[[Sequence[ChatMessage]], dict[str, Any]],
    limit: int,
) -> Generation | None:
    """The conversation without as many of its oldest messages as it takes to fit `limit` tokens.

    What the system says stays. None where not even the last message fits.
    """
    low, high = 1, len(messages)  # to drop `high` is too many or just not known to be too few
    with suppress(EngineRefused):
        while low < high:
            middle = (low + high) // 2
            shorter = make(bodies.drop_oldest(messages, middle))
            if await engine.tokens_of_chat(shorter) < limit:
                high = middle
            else:
                low = middle + 1
        if low < len(messages):
            return Generation(CHAT, make(bodies.drop_oldest(messages, low)), read_chat)
    return None


def _conversation(asked: ParsedRequest, body: GenerateBody) -> dict[str, Any]:
    messages = bodies.generate_messages(body, asked.preamble)
    return bodies.chat(body, messages, asked.params, can_think=asked.can.thinks)
