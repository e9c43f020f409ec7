"""What the proxy decided, as numbered events: the last ones of each kind are kept, and readers
follow along live.

Whoever decides publishes; the log, the event stream of the admin API and tests read. A reader that
is too slow loses events and is told how many: publishing never waits.

What is soon old, such as how much memory is free, is told to those who follow at the moment: it has
no number, is not kept, and is in no log.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

import structlog

KEPT_EVENTS = 200  # of each kind: one that comes often takes nothing from the others
SUBSCRIBER_EVENTS = 256
# What somebody has to do something about.
WARNINGS = frozenset({"policies_refused"})

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. `kind` is a constant word; ids count up from 1 and have no holes.
    What is not kept has 0."""

    id: int
    at: datetime
    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        number = {"id": self.id} if self.id else {}
        return {**number, "at": self.at.isoformat(), "kind": self.kind, **self.fields}


def _now() -> datetime:
    return datetime.now(UTC)


class EventLog:
    """The last events of each kind, and everyone who follows them. Belongs to one event loop."""

    def __init__(
        self,
        *,
        keep: int = KEPT_EVENTS,
        subscriber_keep: int = SUBSCRIBER_EVENTS,
        logged: bool = True,
        now: Callable[[], datetime] = _now,
    ) -> None:
        """`logged`: what is published is in the log too."""
        self._now, self._logged = now, logged
        self._keep, self._subscriber_keep = keep, subscriber_keep
        # All that ever changes:
        self._rings: dict[str, deque[Event]] = {}
        self._last_id = 0
        self._subscribers: set[Subscription] = set()
        self._followed = asyncio.Event()  # while there are any
        self._listeners: list[Callable[[Event], None]] = []
        self.closed = False

    def __repr__(self) -> str:
        return f"<EventLog last_id={self._last_id} subscribers={len(self._subscribers)}>"

    @property
    def last_id(self) -> int:
        return self._last_id

    def publish(self, kind: str, /, **fields: Any) -> Event:
        """Keep, log and hand on an event; never waits. `fields` must be JSON values; an `at` among
        them is when it happened elsewhere."""
        self._last_id += 1
        event = Event(self._last_id, self._now(), kind, fields)
        self._rings.setdefault(kind, deque(maxlen=self._keep)).append(event)
        if self._logged:
            (log.warning if kind in WARNINGS else log.info)(kind, **fields)
        for subscriber in self._subscribers:
            subscriber.offer(event)
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:
                log.exception("listener_crashed", kind=kind)
        return event

    @property
    def is_followed(self) -> bool:
        """Whether anybody would hear what is told."""
        return self._followed.is_set()

    async def until_followed(self) -> None:
        """Return when somebody would hear what is told."""
        await self._followed.wait()

    def tell(self, kind: str, /, **fields: Any) -> None:
        """Hand on what is soon old to those who follow now; never waits."""
        event = Event(0, self._now(), kind, fields)
        for subscriber in self._subscribers:
            subscriber.offer(event)

    def since(self, last_seen: int) -> list[Event]:
        """The events after id `last_seen` that are still kept, oldest first.

        Where some are gone already, a "lost" marker stands in their place.
        """
        found: list[Event] = []
        for event in heapq.merge(*self._rings.values(), key=lambda event: event.id):
            if (gone := event.id - last_seen - 1) > 0:
                found.append(self.lost(gone, before=event.id))
            if gone >= 0:
                found.append(event)
                last_seen = event.id
        return found

    def subscribe(self, *, after: int | None = None) -> "Subscription":
        """Follow the events from now on, or from the one after id `after` as far as it is kept.

        Use it as a context manager and iterate over it; leaving the block ends it.
        """
        subscription = Subscription(self, self._subscriber_keep)
        if after is not None:
            # An id from before a restart of the proxy is larger than any of ours: then all is new.
            subscription.backlog.extend(self.since(after if after <= self._last_id else 0))
        self._subscribers.add(subscription)
        self._followed.set()
        return subscription

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call this at once for each event from now on: for what must not miss one."""
        self._listeners.append(listener)

    def unsubscribe(self, subscription: "Subscription") -> None:
        self._subscribers.discard(subscription)
        if not self._subscribers:
            self._followed.clear()

    def close(self) -> None:
        """Have everyone who follows come to the end of what there is; more is still kept and
        logged."""
        self.closed = True
        for subscriber in self._subscribers:
            subscriber.wake()

    def lost(self, count: int, *, before: int) -> Event:
        """The marker that a reader gets in place of `count` events that came before id `before`."""
        return Event(before - 1, self._now(), "lost", {"count": count})


class Subscription:
    """One reader's bounded queue of events. Iterating waits for the next one, until the log is
    closed."""

    def __init__(self, events: EventLog, keep: int) -> None:
        self._events = events
        self._keep = keep
        self._arrived = asyncio.Event()
        self._lost = 0
        self.backlog: deque[Event] = (
            deque()
        )  # kept from before the subscription; not bounded by `keep`
        self._queue: deque[Event] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._events.unsubscribe(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self.backlog and not self._queue:
            if self._events.closed:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        if self.backlog:
            return self.backlog.popleft()
        if self._lost:
            # What is left is newer: it comes after the first of them that has a number.
            numbers = (event.id for event in self._queue if event.id)
            before = next(numbers, self._events.last_id + 1)
            marker = self._events.lost(self._lost, before=before)
            self._lost = 0
            return marker
        return self._queue.popleft()

    def offer(self, event: Event) -> None:
        """Take an event in. A full queue gives up its oldest one: what is newest matters most."""
        if len(self._queue) >= self._keep:
            self._queue.popleft()
            self._lost += 1
        self._queue.append(event)
        self.wake()

    def wake(self) -> None:
        self._arrived.set()
