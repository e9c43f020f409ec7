"""What came of asking several nodes the same: who answered, who is left out, or that somebody may
not ask. Pure."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import msgspec

from proxy.errors import ProxyError

NOT_THERE: Final = HTTPStatus.NOT_FOUND


class NobodyAnswers(ProxyError):
    """No node of the fleet answers at the moment."""

    status = 503
    code = "no_node"


@dataclass(frozen=True, slots=True)
class Said:
    """A node's answer, or why there is none: then `status` is 0."""

    node: str
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    why: str = ""

    @property
    def is_good(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_refusal(self) -> bool:
        return 400 <= self.status < 500


class PassedOn(Exception):
    """What a node said is the answer, as it is."""

    def __init__(self, said: Said) -> None:
        super().__init__(f"{said.node}: {said.status}")
        self.said = said


@dataclass(frozen=True, slots=True)
class Answers:
    """`good` are those to be merged, by node, and `read` what was read of each; `left_out` says of
    each other node why, but for those that have no such thing, which are `missing`."""

    good: Mapping[str, Said]
    read: Mapping[str, Any]
    left_out: Mapping[str, str]
    missing: Collection[str] = ()

    @property
    def warning(self) -> str | None:
        """For the header that says what is missing."""
        if not self.left_out:
            return None
        return "without " + ", ".join(f"{node} ({why})" for node, why in self.left_out.items())


def table_of(said: Said) -> dict[str, Any]:
    """A node's answer in JSON. Raises ValueError for what is no object."""
    table = msgspec.json.decode(said.body)
    if not isinstance(table, dict):
        raise ValueError("no JSON object")
    return table


def understood(look: Callable[[Mapping[str, dict[str, Any]]], object]) -> Callable[[Said], Any]:
    """Like `table_of`, of what `look` can make sense of: it gets what one node said, by its name.
    So nobody's odd words are in the way of what others say."""

    def read(said: Said) -> dict[str, Any]:
        table = table_of(said)
        try:
            look({said.node: table})
        except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
            raise ValueError(f"it is not what it should be: {error!r}") from error
        return table

    return read


def text_of(said: Said) -> str:
    """Raises ValueError for what is no UTF-8."""
    return said.body.decode()


def sorted_out(told: Iterable[Said], read: Callable[[Said], Any] = table_of) -> Answers:
    """Raises PassedOn for the first refusal: all nodes have the same keys, and each says the same.
    That one has no such thing counts only where no other has it either. `read` raises ValueError;
    whose answer that is is left out. Raises NobodyAnswers."""
    said = list(told)
    for each in said:
        if each.is_refusal and each.status != NOT_THERE:
            raise PassedOn(each)
    good: dict[str, Said] = {}
    values: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for each in said:
        if each.is_good:
            try:
                values[each.node] = read(each)
                good[each.node] = each
            except (ValueError, RecursionError):
                left_out[each.node] = "what it says cannot be understood"
        elif each.status != NOT_THERE:
            left_out[each.node] = each.why or f"HTTP {each.status}"
    missing = [each for each in said if each.status == NOT_THERE]
    if not good and missing:
        raise PassedOn(missing[0])
    if not good:
        why = ", ".join(f"{node}: {why}" for node, why in left_out.items()) or "it has none"
        raise NobodyAnswers(f"no machine of the fleet answers ({why})", retry_after_s=1.0)
    return Answers(good, values, left_out, [each.node for each in missing])
