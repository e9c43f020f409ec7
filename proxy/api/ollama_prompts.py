"""How a request becomes a prompt: as a conversation, as plain text, as a gap, or as tokens."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from proxy.api.ollama_asks import Asked
from proxy.api.ollama_engine import Engine, EngineRefused, Generation
from proxy.dialect.ollama import bodies
from proxy.dialect.ollama.reading import read_chat, read_completion
from proxy.dialect.ollama.requests import ChatMessage, GenerateBody

CHAT: Final = "/v1/chat/completions"
COMPLETION: Final = "/completion"
INFILL: Final = "/infill"
Prepare = Callable[[Asked, GenerateBody, Engine], Awaitable[Generation]]


async def as_conversation(asked: Asked, body: GenerateBody, _: Engine) -> Generation:
    """For a model with a template: the prompt is what a user says."""
    return Generation(CHAT, _conversation(asked, body), read_chat)


async def as_text(asked: Asked, body: GenerateBody, _: Engine) -> Generation:
    """The prompt as it is; without a template the system prompt stands before it."""
    system = "" if body.raw else body.system or asked.system
    prompt = f"{system}\n\n{body.prompt}" if system else body.prompt or ""
    return Generation(COMPLETION, bodies.completion(body, prompt, asked.params), read_completion)


async def as_gap(asked: Asked, body: GenerateBody, _: Engine) -> Generation:
    """What belongs between prompt and suffix."""
    return Generation(INFILL, bodies.infill(body, asked.params), read_completion)


async def after_context(asked: Asked, body: GenerateBody, engine: Engine) -> Generation:
    """The prompt after the tokens of an earlier answer's `context`."""
    prompt = body.prompt or ""
    if asked.can.template:
        prompt = await engine.prompt_of(_conversation(asked, body))
    tokens = [*(body.context or ()), *await engine.tokens_of(prompt, begins=False)]
    return Generation(COMPLETION, bodies.completion(body, tokens, asked.params), read_completion)


async def context_after(engine: Engine, generation: Generation, text: str) -> Sequence[int]:
    """The tokens of the prompt and of the `text` that answered it."""
    prompt = generation.body.get("prompt")
    if isinstance(prompt, list):
        return [*prompt, *await engine.tokens_of(text, begins=False)]
    if prompt is None:
        prompt = await engine.prompt_of(generation.body)
    return await engine.tokens_of(prompt + text, begins=True)


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


def before(asked: Asked) -> list[ChatMessage]:
    """The messages that the model's own manifest puts before every conversation."""
    entry = asked.model.entry
    kept = entry.messages if entry else ()
    return [ChatMessage(role=message.role, content=message.content) for message in kept]


def _conversation(asked: Asked, body: GenerateBody) -> dict[str, Any]:
    messages = bodies.generate_messages(body, asked.system)
    if not body.context:
        # After what the system says, before what is asked now.
        messages[-1:-1] = before(asked)
    return bodies.chat(body, messages, asked.params)
