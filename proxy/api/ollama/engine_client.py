"""Asks llama-server on behalf of Ollama's endpoints: small questions, and generations as events."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, TypeVar

import msgspec

from proxy.dialect.errors import INCREASE, TOO_LONG, of_request
from proxy.dialect.ollama.events import Event
from proxy.dialect.ollama.reading import failure
from proxy.dialect.ollama.sse import SseDecoder, SseError
from proxy.dialect.spent import PROGRESS, prompt_length
from proxy.engine.types import Address
from proxy.errors import BackendDied, BadRequest, ProxyError, is_busy
from proxy.upstream.call import Call
from proxy.upstream.connection import BrokenAnswer, EngineConnection, TooMuch
from proxy.upstream.open_calls import OpenCalls

JSON_HEADERS: Final = (("Content-Type", "application/json"),)
T = TypeVar("T")


class EngineRefused(ProxyError):
    """The engine answered with an error of its own; `kind` is what it calls it.

    `too_long_for`: the context in tokens, where the prompt is longer than that, and has
    `prompt_tokens` if that is known.
    """

    code = "engine_error"
    by_engine = True

    def __init__(
        self,
        message: str,
        *,
        status: int,
        kind: str = "",
        too_long_for: int | None = None,
        prompt_tokens: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.code = kind or self.code
        self.elsewhere = is_busy(status)
        self.too_long_for = too_long_for
        self.prompt_tokens = prompt_tokens


class Prompt(msgspec.Struct):
    prompt: str


class TokenCount(msgspec.Struct):
    input_tokens: int


class Tokens(msgspec.Struct):
    tokens: list[int]


class Content(msgspec.Struct):
    content: str


@dataclass(frozen=True, slots=True)
class Generation:
    """What to ask the engine, and how to read its answer."""

    path: str
    body: Mapping[str, Any]
    read: Callable[[bytes], list[Event]]


class Engine:
    """One engine. Every question is a connection of its own, closed when it is answered or left.

    All methods raise EngineRefused, and BackendDied where no answer came.
    """

    def __init__(
        self, address: Address, calls: OpenCalls, headers: Mapping[str, str] | None = None
    ) -> None:
        """`headers` go with each question."""
        self._address, self._calls = address, calls
        self._headers = (*JSON_HEADERS, *(headers or {}).items())

    async def post(self, path: str, body: Mapping[str, Any], kind: type[T]) -> T:
        """What it answers, as JSON of this kind."""
        async with self._ask(path, body) as answer:
            try:
                data = await answer.read()
            except TooMuch as error:
                raise BadRequest(f"the engine was asked for too much at once: {error}") from error
            except BrokenAnswer as error:
                raise BackendDied(f"the engine went away: {error}") from error
            if answer.status != HTTPStatus.OK:
                raise _refusal(answer.status, data)
        try:
            return msgspec.json.decode(data, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BackendDied(f"the engine's answer made no sense: {error}") from error

    async def generate(
        self,
        generation: Generation,
        served: Callable[[], None],
        prompt_has: Callable[[int], None] | None = None,
    ) -> AsyncGenerator[list[Event]]:
        """The events as they come; close it to end the generation. `served` is called when nothing
        is computed for it any more, however slowly it is taken. `prompt_has` is told how many
        tokens the prompt has, where the engine can say that while it reads it.

        Raises BrokenAnswer where it ends in the middle.
        """
        decoder = SseDecoder()
        body = generation.body
        if prompt_has is not None:
            body = {**body, "return_progress": True}
        async with self._ask(generation.path, body) as answer:
            if answer.status != HTTPStatus.OK:
                raise _refusal(answer.status, await answer.read())
            answer.when_served(served)
            while chunk := await answer.read_chunk():
                try:
                    events = []
                    for data in decoder.feed(chunk):
                        # What is said there too counts: a call that is forced has begun by then.
                        events += generation.read(data)
                        if prompt_has is not None and PROGRESS in data:
                            if tokens := prompt_length(data):
                                prompt_has(tokens)
                            prompt_has = None
                except (SseError, msgspec.DecodeError) as error:
                    raise BrokenAnswer(f"it made no sense: {error}") from error
                if events:
                    yield events

    async def prompt_of(self, chat: Mapping[str, Any]) -> str:
        """A chat as the text that the model gets."""
        answer = await self.post("/apply-template", {**chat, "stream": False}, Prompt)
        return answer.prompt

    async def tokens_of_chat(self, chat: Mapping[str, Any]) -> int:
        """How many tokens the prompt of a chat has."""
        answer = await self.post("/v1/chat/completions/input_tokens", chat, TokenCount)
        return answer.input_tokens

    async def tokens_of(self, text: str, *, begins: bool) -> list[int]:
        """A text as tokens, with what a prompt begins with if it `begins` one."""
        answer = await self.post("/tokenize", {"content": text, "add_special": begins}, Tokens)
        return answer.tokens

    async def text_of(self, tokens: Sequence[int]) -> str:
        answer = await self.post("/detokenize", {"tokens": list(tokens)}, Content)
        return answer.content

    def _ask(
        self, path: str, body: Mapping[str, Any]
    ) -> AbstractAsyncContextManager[EngineConnection]:
        return Call(
            self._address,
            "POST",
            path,
            headers=self._headers,
            body=msgspec.json.encode(body),
            calls=self._calls,
        )


def _refusal(status: int, data: bytes) -> EngineRefused:
    with suppress(msgspec.DecodeError):
        body = msgspec.json.decode(data)
        error = body.get("error", body) if isinstance(body, dict) else body
        named = error if isinstance(error, dict) else {}
        kind, message = str(named.get("type", "")), failure(error).message
        if status == HTTPStatus.INTERNAL_SERVER_ERROR and of_request(message):
            status, kind = HTTPStatus.BAD_REQUEST, BadRequest.code
        too_long = kind == TOO_LONG
        return EngineRefused(
            message + (INCREASE if too_long else ""),
            status=status,
            kind=kind,
            too_long_for=named.get("n_ctx") if too_long else None,
            prompt_tokens=named.get("n_prompt_tokens"),
        )
    return EngineRefused(data.decode(errors="replace")[:1000] or "no reason given", status=status)
