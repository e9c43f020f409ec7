"""A file of API keys as people write it: one key a line, and what it may. Pure."""

import codecs
from dataclasses import dataclass
from typing import Final, Literal

Scope = Literal["use", "admin"]
SCOPES: Final[tuple[Scope, ...]] = ("use", "admin")
LIMIT: Final = b"limit="
MAX_LIMIT: Final = 1_000_000
# A key is shown by its beginning only where that leaves enough to guess.
SHOWN, SHOWN_OF = 4, 12


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `name` is what it is called in the state: never the key. `per_minute`: how many
    requests it may make, None: as many as it likes."""

    secret: bytes
    scope: Scope = "admin"
    name: str = ""
    per_minute: int | None = None


def parse_keys(data: bytes) -> tuple[tuple[Key, ...], tuple[str, ...]]:
    """The keys, and what is wrong with lines that are none; these never say what stands there."""
    keys: dict[bytes, Key] = {}
    problems: list[str] = []
    names: set[str] = set()
    for number, line in enumerate(_without_mark(data).splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith(b"#"):
            continue
        key = _key(words, number)
        if isinstance(key, str):
            problems.append(f"line {number}: {key}")
        elif key.secret in keys:
            problems.append(f"line {number}: this key was there before")
        else:
            name = key.name if key.name not in names else f"{key.name} (line {number})"
            names.add(name)
            keys[key.secret] = Key(key.secret, key.scope, name, key.per_minute)
    return tuple(keys.values()), tuple(problems)


def _key(words: list[bytes], number: int) -> Key | str:
    """A line's key, or what is wrong with it."""
    secret, *rest = words
    limits = [word for word in rest if word.startswith(LIMIT)]
    plain = [word.decode("utf-8", "replace") for word in rest if not word.startswith(LIMIT)]
    scope = next((each for each in SCOPES if plain[:1] == [each]), None)
    if plain and scope is None:
        return "behind a key stands use or admin, then a name"
    if len(plain) > 2 or len(limits) > 1:
        return "a line is KEY [use|admin [NAME]] [limit=N]"
    count = limits[0].removeprefix(LIMIT) if limits else b""
    if limits and not (count.isdigit() and len(count) < 8 and 0 < int(count) <= MAX_LIMIT):
        return f"a limit is a number of requests in a minute, from 1 to {MAX_LIMIT}"
    name = plain[1] if len(plain) == 2 else _beginning(secret, number)
    return Key(secret, scope or "admin", name, int(count) if limits else None)


def _beginning(secret: bytes, number: int) -> str:
    if len(secret) < SHOWN_OF:
        return f"line {number}"
    return secret[:SHOWN].decode("utf-8", "replace")


def _without_mark(data: bytes) -> bytes:
    """The text without what some editors put before it; what they write as UTF-16 as UTF-8."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace").encode()
    return data.removeprefix(codecs.BOM_UTF8)
