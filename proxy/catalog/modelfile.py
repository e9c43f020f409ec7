"""Reads Modelfiles, as Ollama writes and reads them, with `PARAMETER moe_cpu_layers` besides."""

import codecs
import re
from dataclasses import dataclass
from typing import Any, Final

from proxy.catalog.entry import Message
from proxy.catalog.parameters import DROPPED, KINDS, BadParameter, from_text

COMMANDS: Final = (
    "FROM", "PARAMETER", "TEMPLATE", "SYSTEM", "ADAPTER", "LICENSE", "MESSAGE",
    "RENDERER", "PARSER", "REQUIRES", "DRAFT",
)  # fmt: skip
ROLES: Final = ("system", "user", "assistant")
_WORD: Final = re.compile(r"[A-Za-z]+")
TRIPLE: Final = '"""'
# Editors on Windows write this, and say so by a mark.
UTF_16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class ModelfileError(ValueError):
    """Where a Modelfile is wrong, and how; the message begins with the line."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(f"line {line}: {what}")


@dataclass(frozen=True, slots=True)
class Modelfile:
    """What a Modelfile says. `sources` are what FROM names: a model, or files, as written.

    `notes` are for people: what was read but does nothing here.
    """

    sources: tuple[str, ...]
    parameters: dict[str, Any]
    template: str | None = None
    system: str | None = None
    messages: tuple[Message, ...] = ()
    adapters: tuple[str, ...] = ()
    licenses: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Command:
    line: int
    name: str
    value: str


def decode_modelfile(data: bytes) -> str:
    """A file's text: UTF-8, or UTF-16 with its mark. Raises UnicodeDecodeError."""
    return data.decode("utf-16" if data.startswith(UTF_16) else "utf-8-sig")


def parse_modelfile(text: str) -> Modelfile:
    """Raises ModelfileError."""
    commands = _commands(text.removeprefix("\ufeff"))
    values: dict[str, list[str]] = {}
    parameters: dict[str, Any] = {}
    messages: list[Message] = []
    notes: list[str] = []
    for command in commands:
        match command.name:
            case "PARAMETER":
                _parameter(command, parameters, notes)
            case "MESSAGE":
                messages.append(_message(command))
            case "RENDERER" | "PARSER" | "REQUIRES" | "DRAFT":
                notes.append(f"{command.name} is for Ollama's own engine, and does nothing here")
            case _:
                values.setdefault(command.name, []).append(command.value)
    if "FROM" not in values:
        raise ModelfileError(text.count("\n") + 1, "there is no FROM line, and a model needs one")
    return Modelfile(
        sources=tuple(values["FROM"]),
        parameters=parameters,
        # Of what can be there once, the last one counts.
        template=values.get("TEMPLATE", [None])[-1],
        system=values.get("SYSTEM", [None])[-1],
        messages=tuple(messages),
        adapters=tuple(values.get("ADAPTER", ())),
        licenses=tuple(values.get("LICENSE", ())),
        notes=tuple(dict.fromkeys(notes)),
    )


def _commands(text: str) -> list[_Command]:
    # Nothing else ends a line: texts have form feeds, and U+2028 from the web, in them.
    lines = text.replace("\r\n", "\n").split("\n")
    commands = []
    index = 0
    while index < len(lines):
        line, number = lines[index].lstrip(), index + 1
        index += 1
        if not line or line.startswith("#"):
            continue
        word = _WORD.match(line)
        name = word[0].upper() if word else line.split()[0]
        if name not in COMMANDS:
            raise ModelfileError(number, f"{name[:40]!r} is no command; use {', '.join(COMMANDS)}")
        rest = line[len(name) :]
        if rest and not rest[0].isspace():
            raise ModelfileError(number, f"{line.split()[0][:40]!r} is no command")
        head, rest = _head(name, rest.lstrip(), number)
        value, index = _value(rest, lines, index, number)
        if not value and name != "LICENSE" and not rest:
            raise ModelfileError(number, f"{name} needs a value")
        commands.append(_Command(number, name, f"{head} {value}" if head else value))
    return commands


def _head(name: str, rest: str, number: int) -> tuple[str, str]:
    """What stands before the value: the name of a parameter, the role of a message."""
    if name not in ("PARAMETER", "MESSAGE"):
        return "", rest
    words = rest.split(maxsplit=1)
    if len(words) < 2:
        raise ModelfileError(number, f"{name} needs a name and a value")
    return words[0], words[1]


def _value(rest: str, lines: list[str], index: int, number: int) -> tuple[str, int]:
    """A value, which quotes carry over several lines; and the line that comes next."""
    for quote in (TRIPLE, '"'):
        if not rest.startswith(quote):
            continue
        last = rest.removeprefix(quote)
        value = [last]
        # A quote ends where its line does, so that quotes inside of a text do no harm.
        while not last.rstrip().endswith(quote):
            if index == len(lines):
                raise ModelfileError(number, f"{quote} is never closed")
            last = lines[index]
            value.append(last)
            index += 1
        return "\n".join(value).rstrip().removesuffix(quote), index
    return rest.rstrip(), index


def _parameter(command: _Command, parameters: dict[str, Any], notes: list[str]) -> None:
    name, _, text = command.value.partition(" ")
    if name.lower() in DROPPED:
        notes.append(f"parameter {name} is no longer used")
        return
    try:
        name, value = from_text(name, text)
    except BadParameter as error:
        raise ModelfileError(command.line, str(error)) from None
    if KINDS[name] == "texts":
        parameters.setdefault(name, []).append(value)
    else:
        parameters[name] = value


def _message(command: _Command) -> Message:
    role, _, content = command.value.partition(" ")
    if role.lower() not in ROLES:
        raise ModelfileError(command.line, f"{role[:40]!r} is no role; use {', '.join(ROLES)}")
    return Message(role.lower(), content)
