"""What a body says of the work that it makes, by all names that the protocols have for it. Pure.
What is not as it should be is the engine's business: it says so itself."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeGuard

import msgspec

from proxy.dialect.body import Body
from proxy.dialect.synonyms import LENGTHS

# How many answers are wanted at once.
COUNTS: Final = ("n", "n_cmpl")
# Where several inputs may stand, each of which takes a slot.
DOCUMENTS: Final = ("documents", "texts")
INPUTS: Final = ("prompt", "input", "content", *DOCUMENTS)
MOST_NAME: Final = 256  # characters of a user's


class Workload(msgspec.Struct, frozen=True):
    """`slots` it takes at once; `tokens` that each answer may have at most, None: not said; `user`,
    by whom the client tells its requests apart."""

    streams: bool = False
    slots: int = 1
    tokens: int | None = None
    user: str | None = None


def workload_of(body: Body, *, generates: bool = True) -> Workload:
    """Of one request. `generates`: its answer is text."""
    fields = body.fields
    inputs, _ = inputs_of(body)
    if not generates:
        # A vector for each is not worth more than a token.
        return Workload(slots=inputs, tokens=1)
    user = _small(fields["user"]) if "user" in fields else None
    return Workload(
        "stream" in fields and _small(fields["stream"]) is True,
        max((*_counts(fields, COUNTS), inputs)),
        min(_counts(fields, LENGTHS), default=None),
        user[:MOST_NAME] if isinstance(user, str) and user else None,
    )


def inputs_of(body: Body) -> tuple[int, str]:
    """How many inputs it has, and the name of the field where they stand; "" where there is none.
    Raises msgspec.DecodeError."""
    fields = body.fields
    counts = [(_length(name, fields[name]), name) for name in INPUTS if name in fields]
    return max(counts, default=(1, ""))


def _counts(fields: Mapping[str, msgspec.Raw], names: Iterable[str]) -> list[int]:
    there = [_small(fields[name]) for name in names if name in fields]
    return [value for value in there if _is_count(value)]


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _small(raw: msgspec.Raw) -> Any:
    """What a number, a word or a flag is; None for all else."""
    text = bytes(raw)
    return None if text[:1] in b"{[" or len(text) > 4 * MOST_NAME else msgspec.json.decode(text)


def _length(name: str, raw: msgspec.Raw) -> int:
    """How many inputs these are."""
    if bytes(raw)[:1] != b"[":
        return 1
    entries = msgspec.json.decode(raw, type=list[msgspec.Raw])
    # Tokens are one input, and so are the items of a conversation. A prompt may be an object too.
    begins = b'"[{' if name == "prompt" else b'"['
    several = name in DOCUMENTS or bytes(entries[0])[:1] in begins if entries else False
    return len(entries) if several else 1
