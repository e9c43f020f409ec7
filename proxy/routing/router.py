"""From what a request asks to a lease on the backend that answers it, with the split it asks for.

Which model that is says `resolver`, and what to ask of the pool `planner`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from math import inf
from typing import Final, Protocol, TypeVar

import structlog

from proxy.engine.types import Mode
from proxy.errors import BackendDied, KillsWorkers, LoadRefused, NotServing, Suspected
from proxy.pool.compatible import compatible
from proxy.pool.lease import Lease
from proxy.pool.pool import Pool
from proxy.pool.state import Backend, BackendState, Name
from proxy.routing.load_plan import LoadPlan
from proxy.routing.planner import Planner
from proxy.routing.request import ModelRequest
from proxy.routing.resolver import Model
from proxy.routing.suspects import ENOUGH, Asked, Suspects
from proxy.split import Split
from proxy.tasks import spawn

log = structlog.get_logger()
T = TypeVar("T")

# How long the end of a process may take to reach us after its connection broke.
DEATH_IS_KNOWN_S: Final = 2.0
# How many backends may end with a request and its client still gets an answer, and how many it may
# find gone.
MOST_DEATHS: Final = 1
MOST_UNHEARD: Final = 3
# What a request that has lost its worker waits for another that is not to be started yet.
PATIENCE_S: Final = 2.0
# A live backend that so many requests in a row got nothing from but a broken connection serves
# nobody. One alone may be the request's own doing.
MOST_BROKEN: Final = 3
# How long a request waits for its conversation, which is on its way from the backend before.
ARRIVAL_S: Final = 3.0
# A suspect waits for a worker that nobody uses, which may be one that is idle in a moment.
SUSPECT_RETRY_AFTER_S: Final = 10.0
MODES: Final[tuple[Mode, ...]] = ("generation", "embedding", "rerank")


class Controller(Protocol):
    """Who moves experts."""

    async def apply_request(self, backend: Backend, split: Split) -> bool:
        """Bring `backend` to the split that a request asks for; returns when the request may go
        on. False: its experts cannot move. Raises BackendDied."""


class Router:
    """Finds backends for requests. The model is found before, once for each request."""

    def __init__(
        self,
        planner: Planner,
        pool: Pool,
        controller: Controller,
        arriving: Callable[[Backend], "asyncio.Future[None] | None"] = lambda backend: None,
        begins: Callable[[], None] = lambda: None,
    ) -> None:
        """`arriving`: what is done when a backend has the conversations that are being brought into
        it, None where none are. `begins` is called whenever a backend begins to serve somebody."""
        self._planner, self._pool, self._controller = planner, pool, controller
        self._arriving, self._begins = arriving, begins
        self._suspects = Suspects()
        # What changes: how many requests in a row live backends have broken.
        self._broken: dict[Name, int] = {}

    async def backends_of(self, model: Model, *, failed: bool = False) -> list[Backend]:
        """The backends that are there for `model`: all of that name, or, of a variant, those of
        its base that would serve it. `failed`: also those that are gone and still listed."""
        found = [
            backend
            for backend in self._pool.backends()
            if backend.options.model == model.loaded_as
            if failed or backend.state is not BackendState.GONE
        ]
        if not found or model.base is None:
            return found
        request = ModelRequest(model.name)
        plans = [await self._planner.plan(model, request, mode) for mode in MODES]
        return [
            backend
            for backend in found
            if any(compatible(backend.options, p.options, p.matching.unpinned) for p in plans)
        ]

    async def route(
        self, model: Model, request: ModelRequest, mode: Mode, *, insists: bool = False
    ) -> Lease:
        """A lease on a backend that has what the request asks for. Who `insists` has it loaded also
        where that failed a moment ago.

        Raises what `Planner.plan`, `Pool.acquire` and the controller raise.
        """
        plan = await self._planner.plan(model, request, mode)
        if not self._pool.can_serve(plan.options, plan.matching):
            plan = await self._planner.to_load(model, plan)
        lease = await self._acquire(request, plan, insists)
        try:
            if (arrival := self._arriving(lease.backend)) is not None:
                # Whoever answers a long one just now is asked for the next turn at once, by agents.
                await asyncio.wait((arrival,), timeout=ARRIVAL_S)
            fixed = await self._reach(lease, model, plan)
        except BackendDied as error:
            await self._bury(lease, error)
            raise
        except BaseException:
            lease.release()
            raise
        if fixed is None or lease.backend.options.split == fixed.options.split:
            return lease
        # A backend that is loaded with the split takes over.
        lease.release()
        plan = await self._planner.to_load(model, fixed)
        return await self._acquire(request, plan, insists)

    async def _reach(self, lease: Lease, model: Model, plan: LoadPlan) -> LoadPlan | None:
        """Have the split that is asked for; else what has to be loaded for it, where experts
        cannot move (it may be what is loaded)."""
        if plan.split is None:
            # Loaded with no split, as if its experts could move, and they cannot?
            lacks_one = lease.backend.options.split is None and lease.backend.engine.moves_by_reload
            return await self._planner.with_policy_split(model, plan) if lacks_one else None
        if await self._controller.apply_request(lease.backend, plan.split):
            return None
        return await self._planner.loaded_with(model, plan, plan.split)

    async def with_retry(
        self,
        model: Model,
        request: ModelRequest,
        mode: Mode,
        send: Callable[[Lease], Awaitable[T]],
        digest: bytes = b"",
    ) -> T:
        """What `send` makes of a lease; once more, on a new backend, if it raises BackendDied.

        So `send` raises that only as long as its client has not got a byte. The second BackendDied
        is raised. By the `digest` of what is asked, it is known again; empty: it is not. Raises
        KillsWorkers and Suspected where workers crash over it.
        """
        asked = (model.loaded_as, digest)
        deaths = unheard = 0
        while True:
            self._check(asked)
            try:
                return await self._once(model, request, mode, send, asked)
            except BackendDied as error:
                # Where nobody listened any more, nothing was asked, and so that was no try: those
                # who were next in line find that out one after another.
                heard = not isinstance(error, NotServing) or error.asked
                deaths, unheard = deaths + heard, unheard + (not heard)
                self._check(asked, error)
                if deaths > MOST_DEATHS or unheard > MOST_UNHEARD:
                    raise
                log.warning("request_retried", model=model.name, why=error.message)
            except LoadRefused as error:
                # It was there a moment ago, and its first back-off is a short one.
                if not deaths + unheard or (error.retry_after_s or inf) > PATIENCE_S:
                    raise
                await asyncio.sleep(error.retry_after_s or 0.0)

    def _check(self, asked: Asked, last: BackendDied | None = None) -> None:
        """Raises KillsWorkers; `last` is how it went just now."""
        if self._suspects.deaths(asked) >= ENOUGH:
            log.warning("request_refused", model=asked[0], why="workers crash over it")
            raise KillsWorkers(
                f"{ENOUGH} workers of {asked[0]} crashed over this request and nothing else, so it "
                "is not asked again for a while; "
                + (f"the last time: {last.message}" if last else "the log has their last words")
            )

    async def _once(
        self,
        model: Model,
        request: ModelRequest,
        mode: Mode,
        send: Callable[[Lease], Awaitable[T]],
        asked: Asked,
    ) -> T:
        async with await self.route(model, request, mode) as lease:
            if self._suspects.deaths(asked) and lease.backend.in_flight > 1:
                raise Suspected(
                    f"a worker of {asked[0]} crashed over this request, and others use the next "
                    "one: it is only asked again when nobody does",
                    retry_after_s=SUSPECT_RETRY_AFTER_S,
                )
            try:
                answer = await send(lease)
                self._broken.pop(lease.backend.name, None)
            except BackendDied as error:
                was_there = not isinstance(error, NotServing) or error.asked
                if was_there:
                    self._suspects.was_there(lease.backend.name, asked, has_byte=False)
                await self._bury(lease, error)
                if was_there:
                    self._judge(lease.backend, asked)
                raise
            finally:
                # Its client has been cut off, which may cancel this at once.
                if lease.is_broken:
                    self._suspects.was_there(lease.backend.name, asked, has_byte=True)
                    spawn(self._judge_later(lease.backend, asked), name="suspect")
            if lease.is_answered:
                self._suspects.clear(asked)
            return answer

    async def cause_of_end(self, backend: Backend) -> str | None:
        """Why a backend that broke an answer off has ended, in words for people, as soon as that is
        known; None where it has not ended, or nobody knows."""
        await self._pool.until_left(backend, DEATH_IS_KNOWN_S)
        return backend.engine.cause

    async def _judge_later(self, backend: Backend, asked: Asked) -> None:
        await self._pool.until_left(backend, DEATH_IS_KNOWN_S)
        self._judge(backend, asked)

    def _judge(self, backend: Backend, asked: Asked) -> None:
        """All that were there have been told of, now that its end is known."""
        if asked[1] and backend.crashed:
            self._suspects.judge(backend.name, asked)

    async def _bury(self, lease: Lease, error: BackendDied) -> None:
        """Give a dead backend back once the pool knows: it would hand it out again."""
        backend = lease.backend
        try:
            if await self._pool.until_left(backend, DEATH_IS_KNOWN_S):
                self._broken.pop(backend.name, None)
            elif isinstance(error, NotServing) or self._breaks_all(backend):
                self._pool.give_up(backend, error.message)
                self._broken.pop(backend.name, None)
            error.because(backend.engine.cause)
        finally:
            lease.release()

    def _breaks_all(self, backend: Backend) -> bool:
        """Take down that a live backend broke one more request: whether it has served nobody for so
        many. Whoever else it is at may yet be answered, and is not to pay for a request that was to
        blame itself, or one too many."""
        if backend.in_flight > 1:
            return False
        broken = self._broken[backend.name] = self._broken.get(backend.name, 0) + 1
        return broken >= MOST_BROKEN

    async def _acquire(self, request: ModelRequest, plan: LoadPlan, insists: bool) -> Lease:
        lease = await self._pool.acquire(
            plan.options,
            keep_alive_s=request.keep_alive_s,
            matching=plan.matching,
            insists=insists,
            work=request.work,
        )
        self._begins()
        return lease
