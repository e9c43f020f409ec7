"""The book of what our backends hold on each device, set against what the devices show.

A driver shows an allocation, and even more the end of one, later than it happens. Here a change of
what we hold is due until the device has shown it: what we took is taken off the reading meanwhile,
what we gave back is promised to nobody. After `SHOWN_WITHIN_S` the reading is believed as it is.

The two never agree exactly, and need not: allocators round up, and a process has some 300 to 500 MB
of its own on a CUDA device. That counts as ours where the driver tells processes apart, and as
others' where it does not. Belongs to one event loop; does no I/O but a line in the log.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import structlog

from proxy.memory.readings import DeviceReading

log = structlog.get_logger()

SHOWN_WITHIN_S = 5.0
# Drivers hand out memory in pages of this size; what is less is not waited for.
PAGE_BYTES = 2 << 20

Held = Mapping[str, Mapping[str, int]]  # device -> kind ("weights", "kv", ...) -> bytes


@dataclass(slots=True)
class _Account:
    """One device: the good readings of the last seconds, since one may show a change before we are
    told of it, and what they do not show yet."""

    readings: deque[DeviceReading] = field(default_factory=deque)
    taken: int = 0  # by us, not shown yet
    returned: int = 0  # by us, not shown yet
    due_since_s: float = 0.0  # when the first of it began
    changed_s: float = 0.0  # when the last of it began
    others: int | None = None

    @property
    def reading(self) -> DeviceReading | None:
        return self.readings[-1] if self.readings else None


@dataclass(frozen=True, slots=True)
class Loading:
    """A backend begins to take memory: when, and what each device showed then, with how much of
    ours in it."""

    began_s: float
    shown: Mapping[str, tuple[DeviceReading, int]]


class Ledger:
    """`record` says what we have, `observe` what the devices say; the rest are questions.

    Before memory is taken, `record` what will be held, and what really is held afterwards: so
    nobody else is promised the same memory meanwhile. When memory is given back, `record` once it
    is. A plan that failed is waited for like any other: nobody can tell it from one that was
    undone.
    """

    def __init__(self, shown_within_s: float = SHOWN_WITHIN_S) -> None:
        self._shown_within_s = shown_within_s
        # The mutable state: who holds what, and the accounts of the devices.
        self._held: dict[str, dict[str, dict[str, int]]] = {}
        self._accounts: dict[str, _Account] = {}

    def begin(self, *, at_s: float) -> Loading:
        """For the first `record` of a backend that is to be loaded now. That takes longer than
        readings are kept, and most of its memory may be taken at the end."""
        shown = {
            device: (account.reading, self._shows_of_ours(device))
            for device, account in self._accounts.items()
            if account.reading is not None
        }
        return Loading(at_s, shown)

    def record(
        self,
        backend: str,
        held: Held,
        *,
        at_s: float,
        taken_s: float | None = None,
        loading: Loading | None = None,
    ) -> None:
        """All that `backend` holds, as in `Status.held`. `at_s`: when that began to change;
        `taken_s`: when what was taken began to be, where that is earlier: a copy's memory is there
        before the copy is. `loading`: what was taken was since then, until `at_s`."""
        before = self._held.get(backend, {})
        self._held[backend] = {device: dict(kinds) for device, kinds in held.items()}
        for device in before.keys() | held.keys():
            change = _total(held, device) - _total(before, device)
            if change > 0 and loading is not None:
                risen = self._risen_while(loading, device, change)
                self._due(device, change, risen, began_s=loading.began_s, last_s=at_s)
            elif change:
                began_s = at_s if taken_s is None or change < 0 else taken_s
                self._due(device, change, None, began_s=began_s, last_s=began_s)

    def forget(self, backend: str, *, at_s: float) -> None:
        """The backend's process is gone, and what it held is given back."""
        self.record(backend, {}, at_s=at_s)
        del self._held[backend]

    def observe(self, readings: Iterable[DeviceReading]) -> None:
        """Take note of new readings. Old ones (`stale`) say nothing new."""
        for reading in readings:
            if not reading.stale and reading.free_bytes is not None and reading.at_s is not None:
                self._shown(self._account(reading.name), reading)

    def ours(self, device: str) -> int:
        """Bytes that we hold on `device`: by the book, or by the driver's list where that is
        more."""
        account = self._account(device)
        measured = account.reading.ours_bytes if account.reading else None
        if measured is None:
            return self._booked(device)
        return max(self._booked(device), measured + account.taken - account.returned)

    def others(self, device: str) -> int | None:
        """Bytes that other programs had on `device` at its last good reading, None where that is
        not known."""
        return self._account(device).others

    def free(self, device: str) -> int | None:
        """Bytes that may be promised: the smaller of what the device says and what the book
        leaves. None while nothing is known of the device."""
        account = self._account(device)
        reading = account.reading
        if reading is None or reading.free_bytes is None:
            return None
        shown = reading.free_bytes - account.taken
        if reading.used_bytes is not None and account.others is not None:
            usable = reading.free_bytes + reading.used_bytes
            shown = min(shown, usable - self.ours(device) - account.others - account.returned)
        return max(shown, 0)

    def pending_taken(self, device: str) -> int:
        """Bytes taken that the device has not shown yet; `free` leaves them out."""
        return self._account(device).taken

    def pending_free(self, device: str) -> int:
        """Bytes given back that the device has not shown yet."""
        return self._account(device).returned

    def settled(self, device: str) -> bool:
        """Whether the device has shown all that we took and gave back."""
        account = self._account(device)
        return not account.taken and not account.returned

    def __repr__(self) -> str:
        devices = ", ".join(
            f"{name}: ours {self.ours(name)}, others {account.others}, free {self.free(name)}, "
            f"to show +{account.taken} -{account.returned}"
            for name, account in sorted(self._accounts.items())
        )
        return f"<Ledger {devices}>"

    def _account(self, device: str) -> _Account:
        return self._accounts.setdefault(device, _Account())

    def _booked(self, device: str) -> int:
        return sum(_total(held, device) for held in self._held.values())

    def _shows_of_ours(self, device: str) -> int:
        account = self._account(device)
        return self._booked(device) - account.taken + account.returned

    def _risen_while(self, loading: Loading, device: str, booked: int) -> int | None:
        """By how much free memory rose through a backend while it was loading, of which so much has
        just been booked; None where that is not known."""
        before, ours_before = loading.shown.get(device, (None, 0))
        after = self._account(device).reading
        if before is None or after is None or after.source != before.source:
            return None
        return _risen(before, after) + self._shows_of_ours(device) - booked - ours_before

    def _due(
        self, device: str, change: int, risen: int | None, *, began_s: float, last_s: float
    ) -> None:
        """A change from then until then. `risen`: what the readings show of it, where that is known
        better than by their times."""
        account = self._account(device)
        if not account.taken and not account.returned:
            account.due_since_s = began_s
        if risen is None:
            risen = _risen_since(account, began_s)
        if risen is None:
            risen = -change
        if change > 0:
            account.taken += _left(change, -risen)
        else:
            # Not set off against what was taken: it may have been taken, and be slow to come back.
            account.returned += _left(-change, risen)
        account.changed_s = max(account.changed_s, last_s)
        self._attribute(device)

    def _shown(self, account: _Account, reading: DeviceReading) -> None:
        before = account.reading
        if before is not None and before.source != reading.source:
            before = None  # their numbers cannot be compared
            account.readings.clear()
        if before is not None and before.at_s == reading.at_s:
            account.readings.pop()  # heard again, from a source that nobody has asked since
        account.readings.append(reading)
        while (reading.at_s or 0.0) - (account.readings[0].at_s or 0.0) > self._shown_within_s:
            account.readings.popleft()
        if before is None:
            # Nothing to compare with: what began before it is in it.
            if (reading.at_s or 0.0) >= account.changed_s:
                account.taken = account.returned = 0
        elif (reading.at_s or 0.0) >= account.due_since_s:
            risen = _risen(before, reading)
            account.returned = _left(account.returned, risen)
            account.taken = _left(account.taken, -risen)
        waited_s = (reading.at_s or 0.0) - account.changed_s
        if (account.taken or account.returned) and waited_s >= self._shown_within_s:
            log.info(
                "device_did_not_show",
                device=reading.name,
                taken_bytes=account.taken,
                returned_bytes=account.returned,
                waited_s=round(waited_s, 1),
            )
            account.taken = account.returned = 0
        self._attribute(reading.name)

    def _attribute(self, device: str) -> None:
        """Find out anew what others have."""
        account = self._account(device)
        reading = account.reading
        if reading is None or reading.others_bytes is not None or reading.used_bytes is None:
            account.others = reading.others_bytes if reading else None
            return
        account.others = max(reading.used_bytes - self._shows_of_ours(device), 0)


def _total(held: Held, device: str) -> int:
    return sum(held.get(device, {}).values())


def _risen(before: DeviceReading, after: DeviceReading) -> int:
    """By how much free memory rose through us: others coming and going are told apart where the
    driver can."""
    if before.ours_bytes is not None and after.ours_bytes is not None:
        return before.ours_bytes - after.ours_bytes
    return (after.free_bytes or 0) - (before.free_bytes or 0)


def _risen_since(account: _Account, at_s: float) -> int | None:
    """What the readings after `at_s` show already, against the last one before it. None where it
    was so long ago that they show all of it."""
    if account.reading is None:
        return 0
    earlier = [reading for reading in account.readings if (reading.at_s or 0.0) <= at_s]
    return _risen(earlier[-1], account.reading) if earlier else None


def _left(due: int, shown: int) -> int:
    left = due - max(shown, 0)
    return left if left > PAGE_BYTES else 0
