"""Which machine of a fleet a request goes to. Pure.

A conversation's prompt is cached where it was answered before, which a front remembers for a while.
Of what it does not remember, or another front had, it orders the nodes that have the model by a
hash of the conversation and their name, and takes the first that has a slot free (rendezvous
hashing, Thaler and Ravishankar 1998, with bounded load, Mirrokni, Thorup and Zadimoghaddam 2016):
so all fronts choose alike without a word between them.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, Literal

from proxy.fleet.state import Fleet, Node

# So many wait for each slot of a model before another node loads it too.
HOT_LINE: Final = 1.0

Why = Literal["loaded", "room", "shrink", "unload", "line", "wait"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, as far as the choice looks at it. `key` is its conversation's, or its own.
    `least_bytes`: what its model takes of a device at least, all of its experts elsewhere."""

    model: str
    key: bytes
    ctx: int = 0
    least_bytes: int = 0
    before: str | None = None  # the node that has answered this conversation last
    without: Collection[str] = frozenset()  # nodes that have failed it already


@dataclass(frozen=True, slots=True)
class Choice:
    """`why`: it is "loaded" with a slot free; it has "room"; others "shrink" or "unload" for it; it
    is in the shortest "line"; or nothing is right, and it has to "wait" there."""

    node: str
    why: Why


def choose(fleet: Fleet, asked: Asked) -> Choice | None:
    """None: no node that could be asked has the model's file."""
    loaded = {
        name: each
        for name, each in fleet.with_model(asked.model).items()
        if each.ctx >= asked.ctx and _may(fleet.nodes[name], asked)
    }
    order = sorted(loaded, key=lambda name: _rank(asked, name))
    for name in order:
        if loaded[name].is_free:
            return Choice(name, "loaded")
    shortest = min(order, key=lambda name: loaded[name].line, default=None)
    if shortest is not None and loaded[shortest].line < HOT_LINE:
        return Choice(shortest, "line")
    elsewhere = [
        node
        for node in fleet.with_file(asked.model)
        if node.name not in loaded and _may(node, asked)
    ]
    if found := _with_least_harm(elsewhere, asked, hot=shortest is not None):
        return found
    if shortest is not None:
        return Choice(shortest, "line")
    calmest = min(elsewhere, key=lambda node: (_load(node), _rank(asked, node.name)), default=None)
    return Choice(calmest.name, "wait") if calmest else None


def _with_least_harm(nodes: Iterable[Node], asked: Asked, *, hot: bool) -> Choice | None:
    """Where it takes least from others. For a model that is `hot` elsewhere nobody is unloaded."""
    best: tuple[tuple[object, ...], Node, Why] | None = None
    for node in nodes:
        lacks = max(asked.least_bytes - node.free_bytes, 0)
        why: Why = "room" if not lacks else "shrink" if lacks <= node.movable_bytes else "unload"
        if why == "unload" and (hot or lacks > node.movable_bytes + node.idle_bytes):
            continue
        # Of those that lack nothing, the one with the most room.
        order = (("room", "shrink", "unload").index(why), lacks, -node.free_bytes)
        rank = (*order, _rank(asked, node.name))
        if best is None or rank < best[0]:
            best = rank, node, why
    return Choice(best[1].name, best[2]) if best else None


def _may(node: Node, asked: Asked) -> bool:
    return not node.draining and node.name not in asked.without


def _load(node: Node) -> int:
    return sum(each.in_flight + each.waiting for each in node.loaded)


def _rank(asked: Asked, name: str) -> tuple[bool, bytes]:
    """The least comes first: the same order for everybody, another one for each conversation."""
    hashed = blake2b(name.encode(), key=asked.key[:64], digest_size=8).digest()
    return name != asked.before, hashed
