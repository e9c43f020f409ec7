"""Who decides where a backend's experts are, and since when: requests, the operator, the policies.

It turns what was asked for (`desired`) into a placement (proxy.placement), and has the experts
brought there (`migration`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress

import structlog

from proxy.clock import Clock
from proxy.control.desired import DesiredState, DesiredStates
from proxy.control.headroom import Headroom
from proxy.control.migration import Migration
from proxy.control.ports import Pool
from proxy.engine.types import CPU, LoadOptions, Mode
from proxy.errors import Conflict, NotFound, ProxyError
from proxy.observe.events import EventLog
from proxy.placement.assign import assign, placed, projected
from proxy.placement.rebalance import Relocation
from proxy.policy.consequence import consequence
from proxy.policy.diff import Changes
from proxy.policy.model import ModelPolicy, Policies
from proxy.pool.state import Backend, BackendState, Name
from proxy.split import AUTO, Split
from proxy.tasks import spawn

log = structlog.get_logger()

# How long a request that asked for a split waits for repacking, once its experts are where they
# should be: then its text is the one that llama-server gives with this split. A large model takes
# longer and answers meanwhile.
REQUEST_SETTLE_S = 3.0
# How long it is waited for what devices a backend has, which it says as soon as it is ready.
DEVICES_KNOWN_S = 15.0


class Controller:
    """One for all backends. Runs on the event loop; moves of one backend may supersede each
    other."""

    def __init__(
        self,
        *,
        pool: Pool,
        desired: DesiredStates,
        headroom: Headroom,
        policies: Callable[[], Policies],
        policy_of: Callable[[str], ModelPolicy],
        options_for: Callable[[str, Mode, bool], Awaitable[LoadOptions]],
        events: EventLog,
        clock: Clock,
    ) -> None:
        """`policy_of` tells what holds for a model, its manifest counted in; `options_for` what it
        would be loaded with now, if its experts can move or, by the last argument, cannot."""
        self._pool, self._desired, self._headroom = pool, desired, headroom
        self._policies, self._policy_of, self._options_for = policies, policy_of, options_for
        self._events, self._clock = events, clock
        # What changes: with which changed keys a backend has been loading while they changed.
        self._outdated: dict[Name, tuple[str, ...]] = {}

    async def close(self) -> None:
        """Stop waiting for moves; the engines end with the pool."""
        self._desired.close_all()

    # --- who asks ---

    async def apply_request(self, backend: Backend, split: Split) -> bool:
        """A request asks for a split; returns when it is there. False: its experts cannot move, so
        it is there only where the backend was loaded with it.

        It holds until another request asks, or until the backend has been idle for
        `devices.settle`. Raises BackendDied where the worker has gone meanwhile.
        """
        if backend.engine.moves_by_reload:
            return False
        if (state := self._desired.get(backend)) is not None:
            state.request = split
            # What the worker refuses to move stays where it is, as the answer's header says.
            with suppress(Conflict):
                await self._apply(backend, state, "request", settle_s=REQUEST_SETTLE_S)
        return True

    async def operator(self, target: str, split: Split) -> list[Backend]:
        """The operator sets the split of a backend (by id) or of all of a model's; returns once
        moved.

        It holds until that backend is unloaded or the policy's own number is edited.
        Raises NotFound where nothing of that name is loaded, Conflict where live moves are not
        possible or were refused, BackendDied where a worker has gone meanwhile.
        """
        found = {
            backend: state
            for backend in self._pool.backends()
            if target in (backend.id, backend.options.model)
            if (state := self._desired.get(backend)) is not None
        }
        if not found:
            raise NotFound(f"{target!r} is not loaded")
        for backend in found:
            if backend.engine.moves_by_reload:
                raise Conflict(
                    f"{backend.id}: its experts cannot move: {backend.engine.why_no_moves}"
                )
        if all(map(_is_whole, found)):
            raise Conflict(f"{target}: nothing of it moves: {_why_whole(next(iter(found)))}")
        for state in found.values():
            state.operator, state.request = split, None
        # At once: one that does not answer keeps no other from moving.
        moves = (self._apply(backend, state, "operator") for backend, state in found.items())
        outcomes = await asyncio.gather(*moves, return_exceptions=True)
        left = [backend for backend in found if self._desired.get(backend) is found[backend]]
        for backend, error in zip(found, outcomes, strict=True):
            # One of several may end meanwhile.
            if error is not None and (backend in left or not left):
                raise error
        return left

    # --- what memory demands ---

    def relocate(self, relocations: Sequence[Relocation], whom: str | None = None) -> None:
        """Have experts move, whatever was asked for: memory comes first. `whom`: the model that
        they make way for."""
        for backend in self._headroom.serving():
            moves = [move for move in relocations if move.tenant == backend.id]
            if not moves:
                continue
            homes = {x.index: x.attention_device for x in backend.engine.known().layers}
            expert_only = self._desired.expert_only(backend)
            places = {
                move.layer: self._device_in(move.place, homes[move.layer], expert_only)
                for move in moves
            }
            why = moves[0].why  # all of one round have the same
            to = sorted(set(places.values()))
            log.info("balance", backend=backend.id, why=why, layers=len(places), to=to)
            self.set_targets(backend, places, why, whom)

    def _device_in(self, domain: str, home: str, expert_only: Sequence[str]) -> str:
        """A domain is no place: of the devices in it, the layer's own, or one for experts only."""
        if domain in (CPU, self._headroom.domain_of(home)):
            return CPU if domain == CPU else home
        inside = (name for name in expert_only if self._headroom.domain_of(name) == domain)
        return next(inside, home)

    def set_targets(
        self, backend: Backend, moves: Mapping[int, str], why: str, whom: str | None = None
    ) -> None:
        """Change where some layers are to be, and begin to move them there."""
        state = self._desired.get(backend)
        if state is not None and backend.engine.live_moves:
            goal = (state.migration.goal or placed(backend.engine.known())) | dict(moves)
            state.migration.start(goal, why, whom=whom)

    async def devices_known(self, backend: Backend, devices: Iterable[str], floor: int = 0) -> None:
        """What there is to know of its devices, which have these names, is known: place its experts
        for the first time. `floor`: layers that "auto" leaves on the CPU."""
        if (state := self._desired.get(backend)) is not None:
            state.devices, state.floor = frozenset(devices), floor
            state.devices_known.set()
            await self._apply_quietly(backend, state, state.first_reason)

    # --- the policies' and the pool's news ---

    async def policies_changed(self, old: Policies, new: Policies, changes: Changes) -> None:
        """Move what moves, and start the successors of backends whose model is to be loaded
        otherwise."""
        for backend in self._pool.backends():
            try:
                self._follow(backend, changes)
            except Exception:
                # One that cannot follow must not keep the others from it.
                log.exception("policy_change_failed", backend=backend.id)

    def _follow(self, backend: Backend, changes: Changes) -> None:
        what = consequence(
            changes,
            backend.options.model,
            dense=backend.options.dense,
            by_replacing=backend.splits_by_replacing,
        )
        if backend.state is BackendState.GONE and what.anew:
            # Why it failed may be mended: it is tried again as if it had not.
            spawn(self._pool.unload(backend.id), name=f"{backend.id}:forget")
            return
        if backend.state is BackendState.STARTING and what.anew:
            self._outdated[backend.name] = self._outdated.get(backend.name, ()) + what.reload
        if (state := self._desired.get(backend)) is None:
            return
        if what.splits:
            state.policy, state.operator = self.policy_split(backend), None
        to_reload = what.anew and backend.state is BackendState.READY
        if what.moves or to_reload:
            keys = what.reload if to_reload else None
            follow = self._follow_up(backend, state, keys, what.moves)
            spawn(follow, name=f"{backend.id}:policy")

    async def _follow_up(
        self, backend: Backend, state: DesiredState, keys: tuple[str, ...] | None, to_move: bool
    ) -> None:
        """`keys`: of what it is loaded with; None: none changed. Where a successor takes over, that
        has its experts where they belong."""
        if keys is not None and await self._reload(backend, keys):
            return
        if to_move:
            await self._apply_quietly(backend, state, "policy")

    async def _reload(self, backend: Backend, keys: tuple[str, ...]) -> bool:
        """Have it replaced where it would be loaded otherwise now; whether it is."""
        model, moves = backend.options.model, not backend.engine.moves_by_reload
        try:
            options = await self._options_for(model, backend.options.mode, moves)
        except ProxyError as error:  # its file is gone, or its table
            log.warning("not_reloaded", backend=backend.id, model=model, error=error.message)
            return False
        if options.dense != backend.options.dense:
            keys += ("dense_cpu_layers",)
        # Without a key that says so, only the batch may be another one, by what is free just now.
        if not keys or options == backend.options:
            return False
        self._events.publish("backend_reloading", backend=backend.id, keys=list(keys))
        await self._pool.replace(backend.id, options)
        return True

    def ready(self, backend: Backend) -> None:
        """It is loaded, and may be asked for a split."""
        migration = Migration(
            backend, events=self._events, clock=self._clock, on_short=self._headroom.note_failed
        )
        self._desired.open(backend, DesiredState(self.policy_split(backend), migration))
        if (keys := self._outdated.pop(backend.name, None)) is not None:
            spawn(self._reload(backend, keys), name=f"{backend.id}:reload")
        if not backend.engine.live_moves:
            why = backend.engine.why_no_moves
            log.info("no_live_moves", backend=backend.id, model=backend.options.model, why=why)

    def policy_split(self, backend: Backend) -> Split:
        """What the policies say of this backend's weights, experts or not."""
        policy = self._policy_of(backend.options.model)
        if not backend.options.dense:
            return policy.moe_cpu_layers
        # It is unset where a successor that has everything on the device is on its way.
        return AUTO if policy.dense_cpu_layers is None else policy.dense_cpu_layers

    def idle(self, backend: Backend) -> None:
        """Nobody uses it any more: what a request asked for holds only for a while."""
        state = self._desired.get(backend)
        if state is not None and state.request is not None:
            state.idle_number += 1
            timer = self._forget_request(backend, state, state.idle_number)
            spawn(timer, name=f"{backend.id}:settle")

    async def _forget_request(self, backend: Backend, state: DesiredState, number: int) -> None:
        await self._clock.sleep(self._policies().devices.settle_s)
        if backend.idle and state.idle_number == number and self._desired.get(backend) is state:
            state.request = None
            await self._apply_quietly(backend, state, "settle")

    def gone(self, backend: Backend) -> None:
        self._desired.close(backend)
        self._outdated.pop(backend.name, None)

    # --- what comes of it ---

    async def _apply_quietly(self, backend: Backend, state: DesiredState, why: str) -> None:
        """For what nobody waits for; why it failed is in the log."""
        with suppress(ProxyError):
            await self._apply(backend, state, why)

    async def _apply(
        self, backend: Backend, state: DesiredState, why: str, *, settle_s: float = 0.0
    ) -> None:
        """Have the engine reach what is asked now. Raises what the move failed by."""
        if not backend.engine.live_moves:
            return
        if not state.devices_known.is_set():
            known = spawn(state.devices_known.wait(), name=f"{backend.id}:devices")
            # Where nobody says, a number is tried and "auto" puts nothing anywhere.
            await self._clock.wait((known,), DEVICES_KNOWN_S)
            known.cancel()
        # What is on its way has its room already: it is not available any more.
        status = projected(backend.engine.known(), state.migration.goal or {})
        goal = assign(
            status,
            state.split,
            self._headroom.available(by_number=state.split != AUTO),
            self._desired.expert_only(backend),
            domain_of=self._headroom.domain_of,
            no_experts=self._desired.no_expert_devices(),
            floor=state.floor,
        )
        await state.migration.reach(goal, why, settle_s=settle_s)


def _is_whole(backend: Backend) -> bool:
    """Whether it is known to have nothing that could move, such as a model without experts."""
    status = backend.engine.known()
    return not backend.engine.live_moves and status.block_count > 0 and not status.layers


def _why_whole(backend: Backend) -> str:
    hint = "; of one without experts, dense_cpu_layers in its policy lets feed-forward weights move"
    hinted = not backend.options.dense and not backend.engine.known().cached
    return f"{backend.engine.why_no_moves}{hint if hinted else ''}"
