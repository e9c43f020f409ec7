"""What nodes refuse for a reason of their own: of which of it another node may be asked, what a
client is told where all refuse, and for how long a node is left alone after it. Pure."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from proxy.node.names import NOTHING_ASKED, REFUSES_COMMENT, REFUSES_HEADER

# Nodes say no longer; what an engine of somebody else's says may be anything.
LONGEST_S: Final = 300.0
# That it is not there, which is a surprise only where it was thought to be.
ABSENT: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND})
_COMMENT: Final = re.compile(rb"(?:\A|\n\n)%b (\d{0,9})\n\n" % re.escape(REFUSES_COMMENT))
_SECONDS: Final = re.compile(r"\d{1,9}")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A node's answer that says so, as it came."""

    node: str
    status: int
    reason: str
    headers: Sequence[tuple[str, str]]
    body: bytes
    retry_after_s: float | None = None
    is_event: bool = False  # the last of a stream that had nothing else

    def __str__(self) -> str:
        return f"it refuses: HTTP {self.status}" if not self.is_event else "it refuses, in a stream"


def is_refusal(
    status: int, headers: Mapping[str, str], *, expected: bool, may_repeat: bool
) -> bool:
    """Whether another node is to be asked what this one answers so. `expected`: it was asked since
    it has the model, or what is of one node."""
    said = headers.get(REFUSES_HEADER)
    if said is None or (said != NOTHING_ASKED and not may_repeat):
        return False
    return expected or status not in ABSENT


def wait_of(headers: Mapping[str, str]) -> float | None:
    """When to come again, in seconds; None: it does not say."""
    said = headers.get("Retry-After", "").strip()
    return float(said) if _SECONDS.fullmatch(said) else None


def in_stream(chunk: bytes) -> tuple[float | None, bytes] | None:
    """When to come again, and the beginning of the event that says why, where a node's stream says
    that it refuses; None: it does not."""
    match = _COMMENT.search(chunk) if REFUSES_COMMENT in chunk else None
    if match is None:
        return None
    return (float(match[1]) if match[1] else None), chunk[match.end() :]


def most_useful(refusals: Collection[Refusal], *, others_failed: bool) -> Refusal | None:
    """What the client is told: that after which it may come again soonest. None: there is no such,
    and who does not answer (`others_failed`) may have what these have not."""
    best = min(refusals, key=_usefulness, default=None)
    return None if best is None or (best.retry_after_s is None and others_failed) else best


def _usefulness(refusal: Refusal) -> tuple[bool, float, bool]:
    wait_s = refusal.retry_after_s
    return wait_s is None, wait_s or 0.0, refusal.status in ABSENT


@dataclass(frozen=True, slots=True)
class _Left:
    until_s: float
    ctx: int
    was_free: bool


class LeftAlone:
    """Which nodes are not asked for a model, since they have refused it, until when. They are only
    asked last: where nobody else is left they may have room again."""

    def __init__(self) -> None:
        # What changes: by model and node.
        self._left: dict[str, dict[str, _Left]] = {}

    def __repr__(self) -> str:
        return f"<LeftAlone models={len(self._left)}>"

    def refused(
        self, node: str, model: str, ctx: int, wait_s: float | None, now_s: float, *, was_free: bool
    ) -> None:
        """`ctx`: what was asked for of it. `was_free`: it has told of a free slot for it, so that
        telling of one means nothing."""
        self._forget_old(now_s)
        if not wait_s:
            return
        nodes = self._left.setdefault(model, {})
        until_s = now_s + min(wait_s, LONGEST_S)
        # Who may have been refused for asking too much has no part in what others are refused.
        if (known := nodes.get(node)) is None or ctx <= known.ctx:
            nodes[node] = _Left(until_s, ctx, was_free)

    def answered(self, node: str, model: str, ctx: int) -> None:
        """It does that again."""
        nodes = self._left.get(model, {})
        if (known := nodes.get(node)) is not None and ctx >= known.ctx:
            del nodes[node]

    def of(self, model: str, ctx: int, now_s: float, is_free: Callable[[str], bool]) -> set[str]:
        """The nodes to leave alone for a request for so much context. `is_free`: whether a node
        tells of a free slot for it: then its line is none any more."""
        return {
            node
            for node, left in self._left.get(model, {}).items()
            if now_s < left.until_s and ctx >= left.ctx and (left.was_free or not is_free(node))
        }

    def _forget_old(self, now_s: float) -> None:
        for model, nodes in list(self._left.items()):
            for node, left in list(nodes.items()):
                if now_s >= left.until_s:
                    del nodes[node]
            if not nodes:
                del self._left[model]
