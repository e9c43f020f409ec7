"""What a model made from a Modelfile says before every conversation, its SYSTEM and its MESSAGEs,
and how that gets into the bodies of the other protocols as it does into Ollama's. Pure.

A system prompt of the request takes the place of the model's own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import msgspec

from proxy.catalog.entry import Entry, Message
from proxy.dialect.body import Body

T = TypeVar("T")
Protocol = Literal["chat", "responses"]
SYSTEM_ROLES: Final = ("system", "developer")


@dataclass(frozen=True, slots=True)
class Preamble:
    """What stands before a conversation."""

    system: str | None = None
    messages: tuple[Message, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.system or self.messages)

    def before(
        self,
        conversation: Sequence[T],
        make: Callable[[Message], T],
        *,
        role: Callable[[T], str],
        told: bool = False,
    ) -> list[T]:
        """The whole conversation. What a system says stays first, as templates want it.

        `told`: the system prompt has another place in the body, and is no message.
        """
        systems = 0
        while systems < len(conversation) and role(conversation[systems]) in SYSTEM_ROLES:
            systems += 1
        own = [Message("system", self.system)] if self.system and not (systems or told) else []
        opened = [make(message) for message in (*own, *self.messages)]
        return [*conversation[:systems], *opened, *conversation[systems:]]


NOTHING: Final = Preamble()


def preamble_of(entry: Entry | None) -> Preamble:
    """What the model's manifest says; nothing where it has none."""
    return Preamble(entry.system, entry.messages) if entry else NOTHING


def add_preamble(body: Body, preamble: Preamble, protocol: Protocol) -> None:
    """Put it into the body.

    What is not as the protocol wants it is left for the engine to refuse.
    """
    if preamble and (changed := _OPENERS[protocol](body.fields, preamble)):
        body.change(changed)


class _Said(msgspec.Struct):
    """The part of a message that is looked at."""

    role: Any = None


Raws = list[msgspec.Raw]
Fields = Mapping[str, msgspec.Raw]
_raws = msgspec.json.Decoder(Raws)
_said = msgspec.json.Decoder(_Said)


def _chat(fields: Fields, preamble: Preamble) -> dict[str, Any]:
    messages = _list(fields.get("messages"))
    return {"messages": preamble.before(messages, _plain, role=_role)} if messages else {}


def _responses(fields: Fields, preamble: Preamble) -> dict[str, Any]:
    items = _items(fields.get("input"))
    if not items:
        return {}
    changed: dict[str, Any] = {"input": preamble.before(items, _item, role=_role, told=True)}
    told = not _empty(fields.get("instructions")) or _role(items[0]) in SYSTEM_ROLES
    if preamble.system and not told:
        changed["instructions"] = preamble.system
    return changed


_OPENERS: Final = {"chat": _chat, "responses": _responses}


def _list(raw: msgspec.Raw | None) -> Raws:
    try:
        return _raws.decode(raw) if raw is not None else []
    except msgspec.ValidationError:
        return []


def _items(raw: msgspec.Raw | None) -> Raws:
    """The input of a response, where a text alone is what the user says."""
    value = None if raw is None else msgspec.json.decode(raw)
    return [_plain(Message("user", value))] if isinstance(value, str) else _list(raw)


def _role(raw: msgspec.Raw) -> str:
    try:
        role = _said.decode(raw).role
    except msgspec.ValidationError:
        return ""
    return role if isinstance(role, str) else ""


def _empty(raw: msgspec.Raw | None) -> bool:
    return raw is None or bytes(raw) in (b"null", b'""', b"[]")


def _plain(message: Message) -> msgspec.Raw:
    return _raw({"role": message.role, "content": message.content})


def _item(message: Message) -> msgspec.Raw:
    kind = "output_text" if message.role == "assistant" else "input_text"
    content = [{"type": kind, "text": message.content}]
    return _raw({"type": "message", "role": message.role, "content": content})


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
