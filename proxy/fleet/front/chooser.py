"""Which node a request goes to: `proxy.fleet.choice`, with what this front remembers."""

from collections.abc import Collection
from dataclasses import dataclass
from hashlib import blake2b
from secrets import token_bytes
from typing import Final

from cachetools import TTLCache

from proxy.errors import Busy, NotFound
from proxy.fleet.choice import Asked, choose
from proxy.fleet.front.asked import Wanted
from proxy.fleet.front.away import RETRY_AFTER_S, SHOWN, comes_again
from proxy.fleet.front.nodes import FleetNode, Nodes

# Conversations that go on later begin anew where there is room, which costs their prompt.
REMEMBERED: Final = 200_000
REMEMBERED_S: Final = 4 * 3600.0


@dataclass(frozen=True, slots=True)
class Chosen:
    """`model` is the name under which it will be loaded there, "" where none is asked for."""

    node: FleetNode
    model: str = ""
    why: str = ""


class Chooser:
    """One for all requests of a front."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        # What changes: where conversations and responses were answered last.
        self._before: TTLCache[bytes, str] = TTLCache(REMEMBERED, REMEMBERED_S)

    def choose(self, wanted: Wanted, pinned: str | None, without: Collection[str]) -> Chosen | None:
        """None: no node is left that could be asked. Raises NotFound for a `pinned` one that is
        none, and Busy where who alone could answer does not."""
        if pinned is not None:
            return self._pinned(wanted, pinned, without)
        if wanted.item is not None and (node := self._holder(*wanted.item)) is not None:
            return Chosen(node, why="has it") if node.name not in without else None
        for name in wanted.models:
            if (model := self._nodes.find(name)) is not None:
                asked = Asked(
                    model.name,
                    wanted.key or token_bytes(16),
                    wanted.ctx,
                    model.least_bytes,
                    self._before.get(wanted.key) if wanted.key else None,
                    self._without(without, name, model.name),
                )
                choice = choose(self._nodes.fleet, asked)
                node = self._nodes.get(choice.node) if choice else None
                return Chosen(node, model.base, choice.why) if node and choice else None
        for name in wanted.models:
            if away := self._nodes.away_with(name):
                raise comes_again(name, away)
        return self._any(wanted, without)

    def remember(self, wanted: Wanted, node: str) -> None:
        """A request is answered there: so may be what belongs to it."""
        if wanted.key:
            self._before[wanted.key] = node

    def remember_response(self, response: str, node: str) -> None:
        """A response that was made there is kept there."""
        self._before[_response_key(response)] = node

    def _pinned(self, wanted: Wanted, name: str, without: Collection[str]) -> Chosen | None:
        node = self._nodes.get(name)
        if node is None:
            there = ", ".join(each.name for each in self._nodes) or "none"
            raise NotFound(f"there is no node {name[:SHOWN]!r} in this fleet; there is {there}")
        if not node.answers:
            raise Busy(f"the node {name!r} does not answer", retry_after_s=RETRY_AFTER_S)
        if name in without:
            return None
        found = next(filter(None, map(node.models.find, wanted.models)), None)
        return Chosen(node, found.base if found else "", "pinned")

    def _holder(self, kind: str, item: str) -> FleetNode | None:
        """Raises Busy where it does not answer."""
        if kind == "responses":
            name = self._before.get(_response_key(item))
            node = self._nodes.get(name) if name else None
            if node and not node.answers:
                raise Busy(
                    f"what {item[:SHOWN]!r} says is on {name}, which does not answer now; try "
                    "again in a moment",
                    retry_after_s=RETRY_AFTER_S,
                )
            return node
        for node in self._nodes:
            things = node.state.get(kind)
            if node.answers and isinstance(things, dict) and item in things:
                return node
        return None

    def _without(self, without: Collection[str], asked: str, model: str) -> Collection[str]:
        """Also those that know the model, and not by the name that the request has."""
        if asked == model:
            return without
        other = {
            node.name
            for node in self._nodes
            if (found := node.models.find(asked)) is None or found.name != model
        }
        return other.union(without)

    def _any(self, wanted: Wanted, without: Collection[str]) -> Chosen | None:
        """The calmest node, or the one for what belongs together."""
        there = [each for each in self._nodes if each.may_be_asked and each.name not in without]
        if not there:
            return None
        if wanted.home:
            return Chosen(min(there, key=lambda node: _rank(wanted.home, node.name)), why="home")
        return Chosen(min(there, key=lambda node: (node.load, node.name)), why="calmest")


def _rank(home: str, name: str) -> bytes:
    return blake2b(name.encode(), key=home.encode(), digest_size=8).digest()


def _response_key(response: str) -> bytes:
    return b"response " + response.encode("utf-8", "surrogatepass")
