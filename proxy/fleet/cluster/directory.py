"""What a fleet knows in common: who is in it, its key, its policies, and who drains. Pure.

Changes of what others have to act on are numbered. It is held by one actor (`directory_actor.py`);
where that begins again with nothing, the supervisors tell what they know.
"""

import secrets
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Final, Literal, TypeVar

from proxy.fleet.member import Member, Members
from proxy.node.names import usable_name

State = Literal["starting", "ready", "draining", "drained"]

# Beyond what the first one remembers after a new beginning, another one may know of later changes.
GAP: Final = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """A policy file's text; None: it was removed."""

    number: int
    text: bytes | None


@dataclass(frozen=True, slots=True)
class Mark:
    """Whether a node drains, which at most takes so long."""

    number: int
    draining: bool
    within_s: float | None = None  # None: as its policies say


@dataclass(frozen=True, slots=True)
class Setup:
    """What `fleet up` was told of a machine: by Ray's id of it."""

    name: str | None = None
    policies: str | None = None  # a path there
    host: str | None = None
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a supervisor tells each second. `says` is for people: what it waits for, or its last
    failure."""

    machine: str  # Ray's id of it
    name: str
    state: State = "starting"
    url: str | None = None  # of its moe-proxy, while there is one
    front: str | None = None  # an address for clients
    says: str = ""
    logs: str = ""  # the folder there
    address: str = ""  # of the machine
    setup: Setup | None = None  # what `fleet up` was told of it last, once that is so


@dataclass(frozen=True, slots=True)
class Memory:
    """All that has to outlive the actor. `policies` is None before there is a first set."""

    key: str
    number: int = 0
    policies: Mapping[str, Entry] | None = None
    marks: Mapping[str, Mark] = field(default_factory=dict)
    setups: Mapping[str, Setup] = field(default_factory=dict)
    # As they were when members changed last: who is asked meanwhile is a member all the time.
    reports: tuple[Report, ...] = ()


@dataclass(frozen=True, slots=True)
class News:
    """What supervisors act on. `life` is another one where the actor has begun again."""

    life: str
    version: int
    memory: Memory
    members: Members


N = TypeVar("N", Entry, Mark)


class Directory:
    """`key` is None until it is known whether there was one before."""

    def __init__(self) -> None:
        self.life: Final = secrets.token_hex(8)
        # What changes:
        self.key: str | None = None
        self.version = 0  # grows with everything that news tell
        self._number = 0
        self._policies: dict[str, Entry] | None = None
        self._marks: dict[str, Mark] = {}
        self._setups: dict[str, Setup] = {}
        self._names: dict[str, str] = {}  # by machine
        self._reports: dict[str, Report] = {}  # by name

    # --- its beginning ---

    def make_key(self) -> None:
        """Nobody knows of one."""
        if self.key is None:
            self.key = secrets.token_urlsafe(32)
            self.version += 1

    def remind(self, memory: Memory) -> None:
        """What a supervisor knows from a life before this one. Of two, the later number counts."""
        if self.key is None:
            self.key = memory.key
            self._number = memory.number + GAP
        elif self.key != memory.key:
            return  # another fleet's
        self._number = max(self._number, memory.number)
        if memory.policies is not None:
            self._policies = _later(self._policies or {}, memory.policies)
        self._marks = _later(self._marks, memory.marks)
        self._setups = {**memory.setups, **self._setups}
        for each in memory.reports:
            if self._names.setdefault(each.machine, each.name) == each.name:
                self._reports.setdefault(each.name, each)
        self.version += 1

    # --- members ---

    def join(self, machine: str, wanted: str) -> str:
        """The name of a machine's node: the same as before, or one that nobody else has."""
        setup = self._setups.get(machine)
        if machine not in self._names:
            first = usable_name(setup.name if setup and setup.name else wanted)
            taken = set(self._names.values())
            self._names[machine] = next(n for n in _numbered(first) if n not in taken)
        return self._names[machine]

    def setup(self, machine: str, setup: Setup) -> Setup:
        """What is not said stays; so does the name of who has one. Returns all of it."""
        before = self._setups.get(machine, Setup())
        found = Setup(
            before.name if machine in self._names else setup.name or before.name,
            setup.policies or before.policies,
            setup.host or before.host,
            setup.port or before.port,
        )
        if found != self._setups.get(machine):
            self._setups[machine] = found
            self.version += 1
        return found

    def tell(self, report: Report) -> None:
        before = self._reports.get(report.name)
        self._names.setdefault(report.machine, report.name)
        self._reports[report.name] = report
        if before is None or _of_members(before) != _of_members(report):
            self.version += 1

    def keep(self, machines: Collection[str]) -> None:
        """Only these are there; who was on another is gone."""
        for machine in set(self._names) - set(machines):
            name = self._names.pop(machine)
            if (report := self._reports.get(name)) and report.machine == machine:
                del self._reports[name]
                self.version += 1
        for machine in set(self._setups) - set(machines):
            del self._setups[machine]

    @property
    def reports(self) -> list[Report]:
        return sorted(self._reports.values(), key=lambda report: report.name)

    def members(self) -> Members:
        """Those that can be asked."""
        return Members(
            tuple(
                Member(each.name, each.url, self.drains(each.name))
                for each in self.reports
                if each.url is not None
            )
        )

    # --- policies and drains ---

    def seed(self, files: Mapping[str, bytes]) -> bool:
        """The first set; False where there is one."""
        if self._policies is not None:
            return False
        self._policies = {}
        for name, text in sorted(files.items()):
            self._policies[name] = Entry(self._next(), text)
        self.version += 1
        return True

    def put(self, name: str, text: bytes | None) -> int:
        """A file was edited somewhere; its number. The same text again is no change."""
        entries = self._policies if self._policies is not None else {}
        self._policies = entries
        before = entries.get(name)
        if before is None or before.text != text:
            entries[name] = Entry(self._next(), text)
            self.version += 1
        return entries[name].number

    def drain(self, name: str, *, draining: bool, within_s: float | None = None) -> None:
        """Raises LookupError."""
        if name not in self._reports:
            there = ", ".join(each.name for each in self.reports) or "none"
            raise LookupError(f"there is no node {name!r} in this fleet; there is {there}")
        if self.drains(name) != draining:
            self._marks[name] = Mark(self._next(), draining, within_s)
            self.version += 1

    def drains(self, name: str) -> bool:
        return (mark := self._marks.get(name)) is not None and mark.draining

    def news(self) -> News:
        """Only once there is a key."""
        assert self.key is not None
        memory = Memory(
            self.key,
            self._number,
            self._policies,
            self._marks,
            self._setups,
            tuple(self.reports),
        )
        return News(self.life, self.version, memory, self.members())

    def _next(self) -> int:
        self._number += 1
        return self._number


def _numbered(name: str) -> Iterator[str]:
    yield name
    for number in count(2):
        yield f"{name}-{number}"


def _of_members(report: Report) -> tuple[object, ...]:
    return report.url, report.machine


def _later(ours: Mapping[str, N], theirs: Mapping[str, N]) -> dict[str, N]:
    """Of each, the one with the later number."""
    found = dict(ours)
    for name, each in theirs.items():
        if name not in found or found[name].number < each.number:
            found[name] = each
    return found
