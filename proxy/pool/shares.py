"""Who of those who wait is next, so that each client has its share of the work, whoever came first
and however many requests it has. Plain decisions on plain numbers.

Fair queueing on two levels. A client's tag says how much work it was given: the one with the lowest
is next. One that comes back begins where the others are by now, so that nobody saves up shares.
Among one client's own requests the one goes first that would be done first if all its connections
were served at once: a short question beside fifty long ones, and none is passed for ever.

A step takes O(log n) on average; what is outdated in a heap is dropped when it comes up.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final

import msgspec

# All work moves everybody on by this part of it: so many newcomers, each with one request, cannot
# keep those who wait from their turn.
CROWD: Final = 64
# How far what was used may put a client behind one that was not there meanwhile.
MOST_AHEAD: Final = 120.0
# How often those are dropped of whom there is nothing to remember.
FORGET_EVERY: Final = 256


class Turn(msgspec.Struct, frozen=True):
    """What was given: the place in the shares, to be corrected when the work is known."""

    client: Hashable
    connection: Hashable
    cost: float


@dataclass(slots=True)
class _Client:
    tag: float  # where its next request starts
    arrived: int  # of equal ones, the first goes first
    version: int = 0  # of its entry in the heap of clients
    now: float = 0.0  # how far its connections would be, served at once
    ends: dict[Hashable, float] = field(default_factory=dict)  # by connection
    heap: list[tuple[float, int, int]] = field(default_factory=list)
    waiting: int = 0

    def end_of(self, connection: Hashable, cost: float) -> float:
        """Where one more request of a connection would end."""
        end = self.ends[connection] = max(self.now, self.ends.get(connection, 0.0)) + cost
        return end


class Shares:
    """The requests that wait, by number. `cost` is work as it is expected, in any unit."""

    def __init__(self) -> None:
        # What changes:
        self._now = 0.0  # the tag of the client that was served last
        self._arrivals = count()
        self._clients: dict[Hashable, _Client] = {}
        self._heap: list[tuple[float, int, int, Hashable]] = []
        self._turns: dict[int, Turn] = {}
        self._since_forgotten = 0

    def __len__(self) -> int:
        return len(self._turns)

    def __contains__(self, request: int) -> bool:
        return request in self._turns

    def add(self, request: int, client: Hashable, connection: Hashable, cost: float) -> None:
        self._turns[request] = Turn(client, connection, cost)
        arrived = next(self._arrivals)
        known = self._known(client)
        known.waiting += 1
        if known.waiting == 1:
            known.tag, known.arrived = max(known.tag, self._now), arrived
            self._push(client, known)
        heappush(known.heap, (known.end_of(connection, cost), arrived, request))

    def remove(self, request: int) -> None:
        """It left."""
        turn = self._turns.pop(request)
        client = self._clients[turn.client]
        client.waiting -= 1
        if turn.connection in client.ends:
            client.ends[turn.connection] -= turn.cost
        if len(client.heap) > 2 * client.waiting + 8:
            client.heap = [entry for entry in client.heap if entry[2] in self._turns]
            heapify(client.heap)

    def first(self) -> int | None:
        """Who is next; None: nobody waits."""
        while self._heap and not self._is_current(self._heap[0][3], self._heap[0][2]):
            heappop(self._heap)
        if not self._heap:
            return None
        heap = self._clients[self._heap[0][3]].heap
        while heap[0][2] not in self._turns:  # it left
            heappop(heap)
        return heap[0][2]

    def take(self) -> tuple[int, Turn] | None:
        """The same, who does not wait any more, and is counted as having had its `cost`."""
        request = self.first()
        if request is None:
            return None
        turn = self._turns.pop(request)
        client = self._clients[turn.client]
        heappop(self._heap)
        heappop(client.heap)
        self._charge(client, turn.cost)
        client.waiting -= 1
        if client.waiting:
            self._push(turn.client, client)
        self._forget()
        return request, turn

    def enter(self, client: Hashable, connection: Hashable, cost: float) -> Turn:
        """One that need not wait: it is only counted."""
        known = self._known(client)
        known.tag = max(known.tag, self._now)
        known.end_of(connection, cost)
        self._charge(known, cost)
        if known.waiting:
            self._push(client, known)
        self._forget()
        return Turn(client, connection, cost)

    def correct(self, turn: Turn, cost: float) -> None:
        """What was given turned out to be so much. To be told of every turn, at its end."""
        self._now += cost / CROWD
        client = self._clients.get(turn.client)
        if client is None:
            return  # forgotten: it is not ahead of anybody
        # As if all its connections were served at once, which they are not: so slowly.
        client.now += cost / max(client.waiting, 1)
        more = cost - turn.cost
        client.tag = min(client.tag + more, max(self._now, client.tag - turn.cost) + MOST_AHEAD)
        if turn.connection in client.ends:
            end = client.ends[turn.connection] + more
            client.ends[turn.connection] = min(end, client.now + MOST_AHEAD)
        if client.waiting:
            self._push(turn.client, client)

    def in_order(self) -> Iterator[tuple[int, Turn]]:
        """All that wait, in the order in which they would go if nobody came or left. Takes
        O(n log n), and changes nothing."""
        queues = {
            name: sorted(entry for entry in client.heap if entry[2] in self._turns)
            for name, client in self._clients.items()
            if client.waiting
        }
        heads = [
            (self._clients[name].tag, self._clients[name].arrived, index, name, 0)
            for index, name in enumerate(queues)
        ]
        heapify(heads)
        while heads:
            tag, arrived, index, name, at = heappop(heads)
            turn = self._turns[queues[name][at][2]]
            yield queues[name][at][2], turn
            if at + 1 < len(queues[name]):
                heappush(heads, (tag + turn.cost, arrived, index, name, at + 1))

    def clear(self) -> None:
        """Nobody is served and nobody waits, or all are to wait elsewhere: all begin anew."""
        for held in (self._clients, self._heap, self._turns):
            held.clear()

    def _known(self, name: Hashable) -> _Client:
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = _Client(self._now, next(self._arrivals))
        return client

    def _charge(self, client: _Client, cost: float) -> None:
        self._now = max(self._now, client.tag)
        client.tag += cost

    def _push(self, name: Hashable, client: _Client) -> None:
        client.version += 1
        heappush(self._heap, (client.tag, client.arrived, client.version, name))
        if len(self._heap) > 2 * len(self._clients) + 8:
            self._heap = [e for e in self._heap if self._is_current(e[3], e[2])]
            heapify(self._heap)

    def _is_current(self, name: Hashable, version: int) -> bool:
        client = self._clients.get(name)
        return client is not None and client.version == version and client.waiting > 0

    def _forget(self) -> None:
        """Those of whom nothing is to be remembered: they are not ahead, as anybody new."""
        self._since_forgotten += 1
        if self._since_forgotten < FORGET_EVERY:
            return
        self._since_forgotten = 0
        for name, client in list(self._clients.items()):
            if not client.waiting and client.tag <= self._now:
                del self._clients[name]
            else:
                client.ends = {key: end for key, end in client.ends.items() if end > client.now}
