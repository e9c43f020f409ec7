"""Which node a request goes to: `proxy.fleet.choice`, with what this front remembers."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, replace
from hashlib import blake2b
from secrets import token_bytes
from typing import Final

from cachetools import TTLCache

from proxy.errors import Busy
from proxy.fleet.choice import Asked, choose
from proxy.fleet.front.asked import Wanted
from proxy.fleet.front.away import RETRY_AFTER_S, SHOWN, comes_again
from proxy.fleet.front.nodes import FleetNode, Nodes
from proxy.fleet.front.picture import Model
from proxy.fleet.front.refused import LeftAlone, Refusal
from proxy.node.names import NODE_HEADER

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
        self._left_alone = LeftAlone()

    def choose(self, wanted: Wanted, pinned: str | None, without: Collection[str]) -> Chosen | None:
        """None: no node is left that could be asked. Raises NotFound for a `pinned` one that is
        none, and Busy where who alone could answer cannot be asked, has just left, or drains."""
        if pinned is not None:
            return self._pinned(wanted, pinned, without)
        if wanted.item is not None and (node := self._holder(*wanted.item)) is not None:
            if node.name in without:
                return None
            if not node.answers:
                raise Busy(
                    f"what {wanted.item[1][:SHOWN]!r} says is on {node.name}, which does not "
                    "answer now; try again in a moment",
                    retry_after_s=RETRY_AFTER_S,
                )
            return Chosen(node, why="has it")
        for name in wanted.models:
            if (model := self._nodes.find(name)) is not None:
                return self._of_model(wanted, name, model, without)
        for name in wanted.models:
            if away := self._nodes.away_with(name):
                if without:
                    return None
                raise comes_again(name, away)
        return self._any(wanted, without)

    def before(self, wanted: Wanted) -> str | None:
        """The node that has answered this conversation last."""
        return self._before.get(wanted.key) if wanted.key else None

    def remember(self, wanted: Wanted, node: str | None) -> None:
        """A request is answered there: so may be what belongs to it. None: nowhere."""
        if wanted.key and node is not None:
            self._before[wanted.key] = node
        elif wanted.key:
            self._before.pop(wanted.key, None)

    def refused(self, chosen: Chosen, wanted: Wanted, refusal: Refusal) -> None:
        """The node has no place for it: for a while others of that model go elsewhere too."""
        node, ctx, now_s = chosen.node.name, wanted.ctx, asyncio.get_running_loop().time()
        was_free = self._is_free(node, chosen.model, ctx)
        wait_s = refusal.retry_after_s
        self._left_alone.refused(node, chosen.model, ctx, wait_s, now_s, was_free=was_free)

    def answered(self, chosen: Chosen, wanted: Wanted) -> None:
        """The node had a place for it; what is kept by one node was there."""
        self._left_alone.answered(chosen.node.name, chosen.model, wanted.ctx)
        if wanted.item is not None and wanted.item[0] == "responses":
            self.remember_response(wanted.item[1], chosen.node.name)

    def remember_response(self, response: str, node: str) -> None:
        """A response that was made there is kept there."""
        self._before[_response_key(response)] = node

    def _pinned(self, wanted: Wanted, name: str, without: Collection[str]) -> Chosen | None:
        if name in without:
            return None
        node = self._nodes.named(name)
        if not node.answers:
            raise Busy(f"the node {name!r} does not answer", retry_after_s=RETRY_AFTER_S)
        if node.draining and wanted.item is None:  # an item is there already, and nowhere else
            raise Busy(
                f"the node {name!r} is taken out of the fleet, and begins nothing new; leave out "
                f"{NODE_HEADER} to have another one asked",
                retry_after_s=RETRY_AFTER_S,
            )
        found = next(filter(None, map(node.models.find, wanted.models)), None)
        return Chosen(node, found.base if found else "", "pinned")

    def _of_model(
        self, wanted: Wanted, name: str, model: Model, without: Collection[str]
    ) -> Chosen | None:
        asked = Asked(
            model.name,
            wanted.key or token_bytes(16),
            wanted.ctx,
            model.least_bytes,
            self.before(wanted),
            self._without(without, name, model.name),
        )
        alone = self._alone(model.base, wanted.ctx)
        wary = replace(asked, without=alone.union(asked.without)) if alone else asked
        choice = choose(self._nodes.fleet, wary) or choose(self._nodes.fleet, asked)
        node = self._nodes.get(choice.node) if choice else None
        return Chosen(node, model.base, choice.why) if node and choice else None

    def _alone(self, model: str, ctx: int) -> set[str]:
        """The nodes that have refused this model a moment ago."""
        now_s = asyncio.get_running_loop().time()
        return self._left_alone.of(model, ctx, now_s, lambda node: self._is_free(node, model, ctx))

    def _is_free(self, node: str, model: str, ctx: int) -> bool:
        loaded = self._nodes.fleet.with_model(model).get(node)
        return loaded is not None and loaded.ctx >= ctx and loaded.is_free

    def _holder(self, kind: str, item: str) -> FleetNode | None:
        if kind == "responses":
            name = self._before.get(_response_key(item))
            return self._nodes.get(name) if name else None
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
        if not wanted.home:
            alone = self._alone("", wanted.ctx)
            there = [each for each in there if each.name not in alone] or there
        if wanted.home:
            return Chosen(min(there, key=lambda node: _rank(wanted.home, node.name)), why="home")
        return Chosen(min(there, key=lambda node: (node.load, node.name)), why="calmest")


def _rank(home: str, name: str) -> bytes:
    return blake2b(name.encode(), key=home.encode(), digest_size=8).digest()


def _response_key(response: str) -> bytes:
    return b"response " + response.encode("utf-8", "surrogatepass")
