"""The bodies that Ollama's clients send, read once and checked. Pure.

As in Ollama, null is as good as nothing, and fields that are not known are not looked at.
"""

import base64
import binascii
from collections.abc import Collection
from typing import Any, Final, TypeVar

import msgspec

from proxy.dialect.lenient import read_object
from proxy.dialect.ollama.options import Options, read_options
from proxy.errors import BadRequest
from proxy.policy.units import parse_keep_alive
from proxy.split import OPTION_NAMES

THINK_LEVELS: Final = ("low", "medium", "high", "max")
THINK_ALLOWED: Final = '"high", "medium", "low", "max", true, or false'
MOST_TOP_LOGPROBS: Final = 20
S = TypeVar("S", bound=msgspec.Struct)


class Body(msgspec.Struct, kw_only=True):
    """What all bodies have."""

    model: str | None = None
    options: dict[str, Any] | None = None
    keep_alive: Any = None
    # Not Ollama's; beside the model they are where OpenAI's clients have them.
    moe_cpu_layers: Any = None
    num_cpu_moe: Any = None
    n_cpu_moe: Any = None
    num_moe_offload: Any = None

    def read_options(self) -> Options:
        return read_options(self.options, {name: getattr(self, name) for name in OPTION_NAMES})

    @property
    def keep_alive_s(self) -> float | None:
        """Seconds to stay loaded, infinity for ever. Raises BadRequest."""
        if self.keep_alive is None:
            return None
        try:
            return parse_keep_alive(self.keep_alive)
        except ValueError as error:
            raise BadRequest(f"keep_alive: {error}", param="keep_alive") from error


class Generation(Body, kw_only=True):
    """What both generating endpoints have."""

    stream: bool | None = None
    format: Any = None
    think: bool | str | None = None
    truncate: bool | None = None
    shift: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None

    @property
    def schema(self) -> dict[str, Any] | None:
        """The JSON schema that the answer has to keep; `{}` is any JSON object."""
        if self.format in (None, ""):
            return None
        if self.format == "json":
            return {}
        if isinstance(self.format, dict):
            return self.format
        shown = msgspec.json.encode(self.format).decode()[:80]
        raise BadRequest(
            f'invalid format: {shown}; expected "json" or a valid JSON Schema object',
            param="format",
        )

    def check(self) -> None:
        """Raise BadRequest for values that no model could follow."""
        if not 0 <= (self.top_logprobs or 0) <= MOST_TOP_LOGPROBS:
            raise BadRequest(
                f"top_logprobs must be between 0 and {MOST_TOP_LOGPROBS}", param="top_logprobs"
            )
        if isinstance(self.think, str) and self.think not in THINK_LEVELS:
            raise BadRequest(
                f'invalid think value: "{self.think[:40]}" (must be {THINK_ALLOWED})',
                param="think",
            )
        _ = self.schema, self.keep_alive_s

    @property
    def streams(self) -> bool:
        return self.stream is not False

    @property
    def thinks(self) -> bool:
        """Whether thinking is asked for, at whatever level."""
        return bool(self.think)


class GenerateBody(Generation, kw_only=True):
    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: bool | None = None
    images: list[str] | None = None

    def check(self) -> None:
        super().check()
        if self.raw and (self.template or self.system or self.context):
            raise BadRequest("raw mode does not support template, system, or context")
        if self.images and (self.raw or self.suffix or self.context):
            raise BadRequest("images need a chat template: not with raw, suffix or context")
        check_images(self.images)


class ToolFunction(msgspec.Struct, kw_only=True):
    name: str = ""
    arguments: dict[str, Any] | None = None
    index: int | None = None


class ToolCall(msgspec.Struct, kw_only=True):
    id: str | None = None
    function: ToolFunction


class ChatMessage(msgspec.Struct, kw_only=True):
    role: str = ""
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class ChatBody(Generation, kw_only=True):
    messages: list[ChatMessage] | None = None
    tools: list[Any] | None = None

    def check(self) -> None:
        super().check()
        for message in self.messages or ():
            check_images(message.images)


class EmbedBody(Body, kw_only=True):
    input: Any = None
    truncate: bool | None = None
    dimensions: int | None = None

    @property
    def texts(self) -> list[str]:
        """What is to be embedded, each for itself. Raises BadRequest."""
        if self.input in (None, ""):
            return []
        texts = [self.input] if isinstance(self.input, str) else self.input
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise BadRequest("invalid input type", param="input")
        return texts


class EmbeddingsBody(Body, kw_only=True):
    prompt: str | None = None


class ShowBody(msgspec.Struct, kw_only=True):
    model: str | None = None
    name: str | None = None
    system: str | None = None
    verbose: bool | None = None


def read(body: bytes, kind: type[S]) -> S:
    """A body as `kind`. Raises BadRequest that says where it is wrong."""
    return read_named(body, kind)[0]


def read_named(body: bytes, kind: type[S]) -> tuple[S, Collection[str]]:
    """The same, and the names of all its fields."""
    if not body.strip():
        raise BadRequest("missing request body")
    try:
        meant = read_object(body)
        return msgspec.json.decode(meant.encode(), type=kind), meant.fields.keys()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not what is expected here: {error}") from error
    except RecursionError as error:
        raise BadRequest("the body is nested too deep") from error


def check_images(images: list[str] | None) -> None:
    """Raise BadRequest for an image that is not base64."""
    for image in images or ():
        try:
            base64.b64decode(image, validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadRequest(f"images: this is not base64: {error}", param="images") from error
