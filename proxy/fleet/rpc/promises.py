"""What this machine has promised to others and they have not filled yet: so it is promised once.

Whoever lends notes it where all of the machine's user look. What its servers hold is in the
machine's own readings already, so that only the rest of a promise is taken off them.
"""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import msgspec
import structlog

from proxy.fleet.rpc.held import held_below
from proxy.fleet.rpc.notes import Notes
from proxy.text import gib

log = structlog.get_logger()

# Where nobody tells what a server holds of a card, it is taken to have all of it by then.
FILLED_WITHIN_S: Final = 60.0

# What this machine has free, by place, where so much is to stay free of each (None: nobody has
# said); and what of a place the servers below a process hold, None: not known.
Free = Callable[[int | None], Mapping[str, int]]
Held = Callable[[int, str], int | None]


class NotPromised(Exception):
    """Why not, in words for people."""


class Promise(msgspec.Struct, frozen=True):
    """A note: who lends, and so many bytes of each place."""

    pid: int
    bytes_of: dict[str, int]


class Reserve(msgspec.Struct, frozen=True):
    """A note of the machine's own proxy: so much of each device is to stay free."""

    size_bytes: int


class Promises:
    """Those of this machine. Methods may block."""

    def __init__(self, env: Mapping[str, str], held: Held = held_below) -> None:
        self._notes, self._held = Notes(env), held

    def open(self) -> Mapping[str, int]:
        """What was promised and is not filled, by place."""
        sums: dict[str, int] = {}
        for promise, age_s in self._notes.living("promise", Promise):
            for place, size in promise.bytes_of.items():
                held = self._held(promise.pid, place)
                if held is None:
                    held = size if age_s > FILLED_WITHIN_S else 0
                sums[place] = sums.get(place, 0) + max(size - held, 0)
        return sums

    def reserve_bytes(self) -> int | None:
        """What is to stay free of each device, as the machine's own proxy says; None: it says
        nothing, or there is none."""
        sizes = [note.size_bytes for note, _ in self._notes.living("reserve", Reserve)]
        return max(sizes, default=None)

    def left(self, free: Free) -> Mapping[str, int]:
        """What can be promised, by place."""
        promised = self.open()  # before: what is taken meanwhile counts as both
        found = free(self.reserve_bytes())
        return {place: size - promised.get(place, 0) for place, size in found.items()}

    @contextmanager
    def made(self, free: Free, wanted: int, least: int) -> Iterator[int]:
        """Promise so many bytes for the length of the block, or as many as there are beside the
        promises of others: it says how many. Raises NotPromised where that is less than `least`,
        and OSError."""
        self._notes.make_folder()
        try:
            with self._notes.locked():
                left = self.left(free)
                shares = _shared(left, wanted)
                size = sum(shares.values())
                if size < max(least, 1):
                    raise NotPromised(_why(least, left, self.open()))
                take_back = self._notes.write("promise", Promise(os.getpid(), shares))
        except TimeoutError:
            raise NotPromised("another load has had its promises to itself") from None
        try:
            yield size
        finally:
            take_back()


class OwnPromises:
    """For the machine's own proxy: what it has promised, and what its policies have whoever lends
    leave free."""

    def __init__(
        self,
        env: Mapping[str, str],
        reserve_bytes: Callable[[], int],
        held: Held = held_below,
    ) -> None:
        self._promises, self._notes = Promises(env, held), Notes(env)
        self._reserve_bytes = reserve_bytes
        self._lock = threading.Lock()
        # What changes: what was told, and how to take it back.
        self._told: int | None = None
        self._take_back: Callable[[], None] | None = None

    def open(self) -> Mapping[str, int]:
        """As `Promises.open`, on any thread. Where the policies have changed, others are told."""
        with self._lock:
            if self._told != (size := self._reserve_bytes()):
                self._tell(size)
        return self._promises.open()

    def close(self) -> None:
        """Nothing is told any more."""
        with self._lock:
            if self._take_back is not None:
                self._take_back()
            self._take_back = None

    def _tell(self, size: int) -> None:
        self._told, old = size, self._take_back
        try:
            self._notes.make_folder()
            self._take_back = self._notes.write("reserve", Reserve(size))
        except OSError as error:
            self._take_back = None
            log.warning("reserve_not_told", reason=str(error))
        if old is not None:
            old()


def _why(least: int, left: Mapping[str, int], promised: Mapping[str, int]) -> str:
    most = max([0, *left.values()])
    return (
        f"{gib(least)} are asked for, {gib(most)} are free beside {gib(sum(promised.values()))} "
        "that are promised to others"
    )


def _shared(left: Mapping[str, int], wanted: int) -> dict[str, int]:
    """Of the place with the most."""
    place = max(left, key=lambda each: left[each], default=None)
    if place is None or left[place] <= 0:
        return {}
    return {place: min(wanted, left[place])}
