"""What a model made from a Modelfile says before every conversation, its SYSTEM and its MESSAGEs,
and how that gets into the chats of the other protocols as it does into Ollama's. Pure.

A system prompt of the request takes the place of the model's own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from proxy.catalog.entry import Entry, Message
from proxy.dialect.body import Body

T = TypeVar("T")
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
    ) -> list[T]:
        """The whole conversation. What a system says stays first, as templates want it."""
        systems = 0
        while systems < len(conversation) and role(conversation[systems]) in SYSTEM_ROLES:
            systems += 1
        own = [Message("system", self.system)] if self.system and not systems else []
        opened = [make(message) for message in (*own, *self.messages)]
        return [*conversation[:systems], *opened, *conversation[systems:]]


NOTHING: Final = Preamble()


def preamble_of(entry: Entry | None) -> Preamble:
    """What the model's manifest says; nothing where it has none."""
    return Preamble(entry.system, entry.messages) if entry else NOTHING


def add_preamble(body: Body, preamble: Preamble) -> None:
    """Put it into the body of a chat.

    What is not as a chat has it is left for the engine to refuse.
    """
    if preamble and (messages := _list(body.fields.get("messages"))):
        body.change({"messages": preamble.before(messages, _plain, role=_role)})


class _Said(msgspec.Struct):
    """The part of a message that is looked at."""

    role: Any = None


Raws = list[msgspec.Raw]
_raws = msgspec.json.Decoder(Raws)
_said = msgspec.json.Decoder(_Said)


def _list(raw: msgspec.Raw | None) -> Raws:
    try:
        return _raws.decode(raw) if raw is not None else []
    except msgspec.ValidationError:
        return []


def _role(raw: msgspec.Raw) -> str:
    try:
        role = _said.decode(raw).role
    except msgspec.ValidationError:
        return ""
    return role if isinstance(role, str) else ""


def _plain(message: Message) -> msgspec.Raw:
    return _raw({"role": message.role, "content": message.content})


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
