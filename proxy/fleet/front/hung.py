"""Requests that nodes are at, and which of them are given up where a node says nothing any more."""

import asyncio
from collections.abc import Callable
from typing import Final

from proxy.fleet.front.nodes import FleetNode, Nodes
from proxy.tasks import spawn
from proxy.upstream.connection import EngineConnection

# An answer that has begun is given up so long after its node was found silent, if it is silent too.
GIVE_UP_S: Final = 10.0
LOOK_S: Final = 0.25
WHY: Final = "the node says nothing any more"


class Passing:
    """A request that a node is at."""

    def __init__(
        self,
        node: FleetNode,
        connection: EngineConnection,
        others: Callable[[], bool],
        *,
        may_repeat: bool,
    ) -> None:
        """`others`: whether there is a node by now that could answer it as well."""
        self.node, self.connection, self.may_repeat = node, connection, may_repeat
        self.others = others
        # What changes:
        self.has_begun = False  # a byte of the answer went out
        self._received, self._since_s = -1, 0.0

    def quiet_s(self, now_s: float) -> float:
        """For how long nothing of the answer has come, as far as somebody has looked."""
        if self.connection.received_bytes != self._received:
            self._received, self._since_s = self.connection.received_bytes, now_s
        return now_s - self._since_s


def is_given_up(
    *, may_go_elsewhere: bool, hangs_s: float, quiet_s: float, others_answer: bool
) -> bool:
    """Whether to wait no longer. A node that hangs may come back: who can be answered elsewhere
    does not wait for that, who cannot does for a while."""
    if hangs_s <= 0:
        return False
    if may_go_elsewhere and others_answer:
        return True
    return hangs_s >= GIVE_UP_S and quiet_s >= GIVE_UP_S


class HungWatch:
    """Looks at what is on its way to nodes that hang; while none does, it sleeps."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        # What changes:
        self._open: set[Passing] = set()
        self._task: asyncio.Task[None] | None = None
        nodes.subscribe(self._changed)

    def add(self, passing: Passing) -> Callable[[], None]:
        """Have an eye on it until the function that is returned is called."""
        self._open.add(passing)
        if self._is_needed():
            self._start()
        return lambda: self._open.discard(passing)

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _changed(self, _: str) -> None:
        if self._is_needed():
            self._start()

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._task = spawn(self._look(), name="hung nodes")

    def _is_needed(self) -> bool:
        return any(passing.node.follower.hangs_since_s is not None for passing in self._open)

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while self._is_needed():
            now_s = loop.time()
            for passing in list(self._open):
                if is_given_up(
                    may_go_elsewhere=passing.may_repeat and not passing.has_begun,
                    hangs_s=passing.node.hangs_for_s(now_s),
                    quiet_s=passing.quiet_s(now_s),
                    others_answer=passing.others(),
                ):
                    passing.connection.break_off(WHY)
            await asyncio.sleep(LOOK_S)
