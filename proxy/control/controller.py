"""Who decides where a backend's experts are, and since when: requests, the operator, the policies.

It turns what was asked for into a placement (proxy.placement), and has the experts brought there
(proxy.control.migration).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from proxy.clock import Clock
from proxy.control.migration import Migration
from proxy.engine.types import LoadOptions, Mode, Status
from proxy.errors import Conflict, NotFound
from proxy.observe.events import EventLog
from proxy.placement.assign import Placement, Spare, assign, display_n, placed, projected
from proxy.policy.diff import Changes
from proxy.policy.model import ModelPolicy, Policies
from proxy.pool.pool import Pool
from proxy.pool.state import Backend, BackendState
from proxy.split import AUTO, Split
from proxy.tasks import spawn

log = structlog.get_logger()

# How long a request that asked for a split waits for repacking, once its experts are where they
# should be: then its text is the one that llama-server gives with this split. A large model takes
# longer and answers meanwhile.
REQUEST_SETTLE_S = 3.0


@dataclass(slots=True)
class Asked:
    """What is asked of one backend, by level; the first that is set counts."""

    policy: Split
    migration: Migration  # what comes of it
    request: Split | None = None
    operator: Split | None = None
    # Set once it is known what devices there are and what they have room for.
    learned: asyncio.Event = field(default_factory=asyncio.Event)
    devices: frozenset[str] = frozenset()  # those that this backend has, as far as that is known
    # Counts the ends of use: a timer that was set at an earlier one is of no interest any more.
    idle_number: int = 0
    # What `current` told last, and of which status and split: each answer's header asks for it.
    told: tuple[Status, Split, int] | None = None

    @property
    def split(self) -> Split:
        for level in (self.request, self.operator):
            if level is not None:
                return level
        return self.policy


class Controller:
    """One for all backends. Runs on the event loop; moves of one backend may supersede each
    other."""

    def __init__(
        self,
        *,
        pool: Pool,
        policies: Callable[[], Policies],
        policy_of: Callable[[str], ModelPolicy],
        options_for: Callable[[str, Mode, bool], Awaitable[LoadOptions]],
        events: EventLog,
        clock: Clock,
    ) -> None:
        """`policy_of` tells what holds for a model, its manifest counted in; `options_for` what it
        would be loaded with now, if its experts can move or, by the last argument, cannot."""
        self._policy_of, self._options_for = policy_of, options_for
        self._pool, self._policies, self._events, self._clock = pool, policies, events, clock
        # The mutable state: what is asked of each backend, by its id, and with which changed keys
        # one has been loading while they changed.
        self._asked: dict[str, Asked] = {}
        self._outdated: dict[str, tuple[str, ...]] = {}
        # What experts may still take of each card, for a number that somebody named or otherwise,
        # and which card a device is on. Set by whoever watches memory.
        self.spare: Callable[[bool], Spare] = lambda by_number: {}
        self.card_of: Callable[[str], str] = str
        # Backend -> layers that are faster on the CPU, as `moe-proxy bench` has measured.
        self.floors: dict[str, int] = {}
        # Told when a device turned out to have no room for what was planned.
        self.on_short: Callable[[str], None] = lambda _: None
        pool.hooks.subscribe(ready=self._ready, idle=self._idle, gone=self._gone)

    async def close(self) -> None:
        """Stop waiting for moves; the engines end with the pool."""
        for asked in self._asked.values():
            asked.migration.cancel()
        self._asked.clear()

    # --- what the handlers look at ---

    def asked(self, backend_id: str) -> Split | None:
        """What is asked for, by whoever counts most."""
        asked = self._asked.get(backend_id)
        return asked.split if asked else None

    def current(self, backend: Backend) -> int | None:
        """`moe_cpu_layers` as it is now; None before the backend is ready, or where that is not
        known."""
        foreign = backend.options.engine == "command" and backend.options.split is None
        asked = self._asked.get(backend.id)
        if asked is None or foreign:
            return None
        status = backend.engine.known()
        if not status.block_count:
            return backend.options.split
        split = asked.split
        if asked.told is None or asked.told[0] is not status or asked.told[1] != split:
            asked.told = status, split, display_n(status, split)
        return asked.told[2]

    def migrations(self, backend_id: str) -> list[dict[str, Any]]:
        """The last moves, oldest first: {"at", "why", "from", "to", "layers", "staged_s",
        "gate_s"}."""
        asked = self._asked.get(backend_id)
        return list(asked.migration.history) if asked else []

    def extra(self, backend: Backend) -> list[str]:
        """The devices of a backend that the policies keep for experts only."""
        devices = asked.devices if (asked := self._asked.get(backend.id)) else ()
        named = self._policies().devices.named.items()
        return [
            name
            for name, rules in named
            if name in devices and rules.experts and not rules.attention
        ]

    def _closed(self) -> set[str]:
        """The devices on which the policies want no experts."""
        named = self._policies().devices.named.items()
        return {name for name, rules in named if not rules.experts}

    def goal(self, backend: Backend) -> Placement | None:
        """Where its experts are to be, once they have moved."""
        asked = self._asked.get(backend.id)
        return asked.migration.goal if asked else None

    def moving(self, backend: Backend) -> bool:
        asked = self._asked.get(backend.id)
        return asked is not None and asked.migration.moving

    # --- who asks ---

    async def apply_request(self, backend: Backend, split: Split) -> bool:
        """A request asks for a split; returns when it is there. False: its experts cannot move, so
        it is there only where the backend was loaded with it.

        It holds until another request asks, or until the backend has been idle for
        `devices.settle`.
        """
        if backend.engine.moves_by_reload:
            return False
        if (asked := self._asked.get(backend.id)) is not None:
            asked.request = split
            await self._apply(backend, asked, "request", settle_s=REQUEST_SETTLE_S)
        return True

    async def operator(self, target: str, split: Split) -> list[Backend]:
        """The operator sets the split of a backend (by id) or of all of a model's; returns once
        moved.

        It holds until that backend is unloaded or the policy's own number is edited.
        Raises NotFound where nothing of that name is loaded, Conflict where live moves are not
        possible.
        """
        found = [
            backend
            for backend in self._pool.backends()
            if target in (backend.id, backend.options.model) and backend.id in self._asked
        ]
        if not found:
            raise NotFound(f"{target!r} is not loaded")
        for backend in found:
            if backend.engine.moves_by_reload:
                raise Conflict(
                    f"{backend.id}: its experts cannot move: {backend.engine.why_no_moves}"
                )
        for backend in found:
            if (asked := self._asked.get(backend.id)) is None:
                continue  # it ended while another one's experts moved
            asked.operator, asked.request = split, None
            await self._apply(backend, asked, "operator")
        return found

    async def policies_changed(self, old: Policies, new: Policies, changes: Changes) -> None:
        """Move what moves, and start the successors of backends whose model is to be loaded
        otherwise."""
        for backend in self._pool.backends():
            change = changes.for_model(backend.options.model)
            reload = change.reload if change is not None else ()
            reload += tuple(key for key in changes.keys if _is_for_all(key))
            moves = change is not None and change.moves(dense=backend.options.dense)
            if moves and _moves_by_replacing(backend):
                reload += (_split_key(backend),)
            otherwise = bool(reload) or (change is not None and change.makes_movable)
            if backend.state is BackendState.STARTING and otherwise:
                self._outdated[backend.id] = self._outdated.get(backend.id, ()) + reload
            if (asked := self._asked.get(backend.id)) is None:
                continue
            if moves:
                asked.policy = self.policy_split(backend)
                asked.operator = None
            ready = backend.state is BackendState.READY
            if ready and otherwise:
                spawn(self._reload(backend, reload), name=f"{backend.id}:reload")
            if not (ready and reload) and (moves or "devices" in _tables(changes)):
                spawn(self._apply(backend, asked, "policy"), name=f"{backend.id}:policy")

    async def _reload(self, backend: Backend, keys: tuple[str, ...]) -> None:
        moves = not backend.engine.moves_by_reload
        options = await self._options_for(backend.options.model, backend.options.mode, moves)
        if options.dense != backend.options.dense:
            keys += ("dense_cpu_layers",)
        # Without a key that says so, only the batch may be another one, by what is free just now.
        if keys and options != backend.options:
            self._events.publish("backend_reloading", backend=backend.id, keys=list(keys))
            await self._pool.replace(backend.id, options)

    # --- what memory demands ---

    def shift(self, backend: Backend, moves: Mapping[int, str], why: str) -> None:
        """Change the goal of some layers, whatever was asked for: memory comes first."""
        asked = self._asked.get(backend.id)
        if asked is not None and backend.engine.live_moves:
            goal = (asked.migration.goal or placed(backend.engine.known())) | dict(moves)
            asked.migration.start(goal, why)

    async def learned(self, backend: Backend, devices: Iterable[str]) -> None:
        """What there is to know of its devices, which have these names, is known: place its experts
        for the first time."""
        if (asked := self._asked.get(backend.id)) is not None:
            asked.devices = frozenset(devices)
            asked.learned.set()
            await self._apply(backend, asked, "load")

    async def until_still(self, backends: Iterable[Backend]) -> None:
        """Wait until none of these has a move under way."""
        for backend in backends:
            if (asked := self._asked.get(backend.id)) is not None:
                await asked.migration.until_still()

    # --- the pool's news ---

    def _ready(self, backend: Backend) -> None:
        migration = Migration(
            backend,
            events=self._events,
            clock=self._clock,
            on_short=lambda device: self.on_short(device),
        )
        self._asked[backend.id] = Asked(self.policy_split(backend), migration)
        if (keys := self._outdated.pop(backend.id, None)) is not None:
            spawn(self._reload(backend, keys), name=f"{backend.id}:reload")
        if not backend.engine.live_moves:
            log.info("no_live_moves", backend=backend.id, why=backend.engine.why_no_moves)

    def policy_split(self, backend: Backend) -> Split:
        """What the policies say of this backend's weights, experts or not."""
        policy = self._policy_of(backend.options.model)
        if not backend.options.dense:
            return policy.moe_cpu_layers
        # It is unset where a successor that has everything on the device is on its way.
        return AUTO if policy.dense_cpu_layers is None else policy.dense_cpu_layers

    def _idle(self, backend: Backend) -> None:
        asked = self._asked.get(backend.id)
        if asked is not None and asked.request is not None:
            asked.idle_number += 1
            timer = self._forget_request(backend, asked, asked.idle_number)
            spawn(timer, name=f"{backend.id}:settle")

    async def _forget_request(self, backend: Backend, asked: Asked, number: int) -> None:
        await self._clock.sleep(self._policies().devices.settle_s)
        if backend.idle and asked.idle_number == number and self._asked.get(backend.id) is asked:
            asked.request = None
            await self._apply(backend, asked, "settle")

    def _gone(self, backend: Backend) -> None:
        if (asked := self._asked.pop(backend.id, None)) is not None:
            asked.learned.set()  # nothing more will be learned, and somebody may wait for it
        self.floors.pop(backend.id, None)
        self._outdated.pop(backend.id, None)

    async def _apply(
        self, backend: Backend, asked: Asked, why: str, *, settle_s: float = 0.0
    ) -> None:
        """Have the engine reach what is asked now."""
        if not backend.engine.live_moves:
            return
        await asked.learned.wait()
        floor = self.floors.get(backend.id, 0)
        # What is on its way has its room already: it is not in `spare` any more.
        status = projected(backend.engine.known(), asked.migration.goal or {})
        goal = assign(
            status,
            asked.split,
            self.spare(asked.split != AUTO),
            self.extra(backend),
            card_of=self.card_of,
            closed=self._closed(),
            floor=floor,
        )
        await asked.migration.reach(goal, why, settle_s=settle_s)


def _moves_by_replacing(backend: Backend) -> bool:
    """Whether another split of the policies takes a successor that is loaded with it. A backend
    that stands beside others has the split that it was asked for."""
    fixed = backend.options.split is not None or backend.engine.moves_by_reload
    return fixed and not backend.coexist


def _split_key(backend: Backend) -> str:
    return "dense_cpu_layers" if backend.options.dense else "moe_cpu_layers"


def _tables(changes: Changes) -> set[str]:
    return {key.partition(".")[0] for key in changes.keys}


def _is_for_all(key: str) -> bool:
    """Whether a changed key outside of models changes what every model is loaded with."""
    return key.startswith("engine.") or key.endswith(".attention")
