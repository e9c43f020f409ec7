"""From what a request asks to a lease on the backend that answers it, with the split it asks for.

Which model that is says `proxy.routing.resolver`, and how it is loaded `proxy.routing.load_plan`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, Protocol, TypeVar

import structlog

from proxy.catalog.gguf import GgufError
from proxy.catalog.local import Catalog, Entry
from proxy.engine.types import Mode
from proxy.errors import BackendDied
from proxy.pool.compatible import compatible
from proxy.pool.lease import Lease
from proxy.pool.pool import Pool
from proxy.pool.state import Backend, BackendState
from proxy.routing.batch_size import Batches, Capacity
from proxy.routing.load_plan import (
    HeaderFacts,
    LoadPlan,
    header_facts,
    loaded_with,
    plan_for,
    policy_split,
    with_policy_split,
)
from proxy.routing.request import ModelRequest
from proxy.routing.resolver import Model, Models, Remembered, keep
from proxy.split import Split

log = structlog.get_logger()
T = TypeVar("T")

# How long the end of a process may take to reach us after its connection broke.
DEATH_IS_KNOWN_S: Final = 2.0
MODES: Final[tuple[Mode, ...]] = ("generation", "embedding", "rerank")


class Controller(Protocol):
    """Who moves experts."""

    async def apply_request(self, backend: Backend, split: Split) -> object:
        """Bring `backend` to the split that a request asks for; returns when the request may go
        on. False: its experts cannot move."""


class Router:
    """Finds backends for requests. Reads policies and catalogue anew for each, so both may change
    at any time."""

    def __init__(
        self,
        models: Models,
        catalog: Catalog,
        pool: Pool,
        controller: Controller,
        capacity: Capacity = lambda _: (),
    ) -> None:
        """`capacity` tells what of the devices, with these RPC servers, a model could have."""
        self._models = models
        self._batches = Batches(catalog, capacity)
        self._catalog = catalog
        self._pool = pool
        self._controller = controller
        # What changes: headers that were read, by entry (another file under the same name is
        # another entry), and what requests came to.
        self._known_facts: dict[Entry, HeaderFacts] = {}
        self._plans = Remembered[tuple[ModelRequest, Mode], LoadPlan](models.basis)

    async def backends_of(self, model: Model) -> list[Backend]:
        """The backends that are there for `model`: all of that name, or, of a variant, those of
        its base that would serve it."""
        name = model.loaded_as or model.name
        found = [
            backend
            for backend in self._pool.backends()
            if backend.options.model == name and backend.state is not BackendState.GONE
        ]
        if not found or not model.loaded_as:
            return found
        plans = [await self._plan(ModelRequest(model.name), mode) for mode in MODES]
        return [
            backend
            for backend in found
            if any(compatible(backend.options, p.options, p.matching.unpinned) for p in plans)
        ]

    async def plan(self, request: ModelRequest, mode: Mode, *, moves: bool = True) -> LoadPlan:
        """What to ask of the pool for a request.

        `moves`: whether the engine's experts can move; else it is loaded with the policy's split.
        Raises ModelNotFound, BadRequest for a file that llama.cpp cannot load, and Conflict for a
        split that the model's engine cannot have.
        """
        plan = await self._plan(request, mode)
        return await self._with_batch(
            request, plan if moves else await self._with_split(request, plan)
        )

    async def _with_split(self, request: ModelRequest, plan: LoadPlan) -> LoadPlan:
        model = self._models.resolve(request.model)
        return with_policy_split(plan, model.policy, await self._facts(model))

    async def _with_batch(self, request: ModelRequest, plan: LoadPlan) -> LoadPlan:
        """Only a load needs it, and it may take a while to choose."""
        model = self._models.resolve(request.model)
        layers = (await self._facts(model)).layers
        ubatch = await self._batches.choose(model.entry, model.policy, plan.options, layers)
        return replace(plan, options=replace(plan.options, ubatch=ubatch))

    async def _plan(self, request: ModelRequest, mode: Mode) -> LoadPlan:
        known = self._plans.now()
        if (plan := known.get((request, mode))) is not None:
            return plan
        model = self._models.resolve(request.model)
        facts = await self._facts(model)
        plan = plan_for(self._with_own_split(request, model, facts), mode, model, facts)
        # A header that could not be read may be there the next time.
        if model.entry is None or model.entry in self._known_facts:
            keep(known, (request, mode), plan)
        return plan

    def _with_own_split(
        self, request: ModelRequest, model: Model, facts: HeaderFacts
    ) -> ModelRequest:
        """A variant that shares its base's backend asks for its own split, as a request would."""
        if request.split is not None or not model.loaded_as:
            return request
        split = policy_split(model.policy, facts)
        bases = policy_split(self._models.resolve(model.loaded_as).policy, facts)
        return request if split == bases else replace(request, split=split)

    async def route(self, request: ModelRequest, mode: Mode) -> Lease:
        """A lease on a backend that has what the request asks for.

        Raises what `plan`, `Pool.acquire` and the controller raise.
        """
        plan = await self._plan(request, mode)
        if not self._pool.can_serve(plan.options, plan.matching):
            plan = await self._with_batch(request, plan)
        lease = await self._acquire(request, plan)
        if plan.split is None and not _lacks_split(lease.backend):
            return lease
        try:
            if plan.split is None:
                loaded = await self._with_split(request, plan)
            elif await self._controller.apply_request(lease.backend, plan.split):
                return lease
            else:
                # It has to be loaded with the split, as it may have been.
                facts = await self._facts(self._models.resolve(request.model))
                loaded = loaded_with(plan, plan.split, facts)
            if lease.backend.options.split == loaded.options.split:
                return lease
        except BackendDied:
            await self._bury(lease)
            raise
        except BaseException:
            lease.release()
            raise
        # A backend that is loaded with the split takes over.
        lease.release()
        return await self._acquire(request, await self._with_batch(request, loaded))

    async def with_retry(
        self, request: ModelRequest, mode: Mode, send: Callable[[Lease], Awaitable[T]]
    ) -> T:
        """What `send` makes of a lease; once more, on a new backend, if it raises BackendDied.

        So `send` raises that only as long as its client has not got a byte. The second BackendDied
        is raised.
        """
        try:
            return await self._once(request, mode, send)
        except BackendDied as error:
            log.warning("request_retried", model=request.model, why=error.message)
        return await self._once(request, mode, send)

    async def _once(
        self, request: ModelRequest, mode: Mode, send: Callable[[Lease], Awaitable[T]]
    ) -> T:
        async with await self.route(request, mode) as lease:
            try:
                return await send(lease)
            except BackendDied:
                await self._bury(lease)
                raise

    async def _bury(self, lease: Lease) -> None:
        """Give a dead backend back, and wait for the pool to know: it would hand it out again."""
        lease.release()
        await self._pool.until_left(lease.backend, DEATH_IS_KNOWN_S)

    async def _acquire(self, request: ModelRequest, plan: LoadPlan) -> Lease:
        return await self._pool.acquire(
            plan.options, keep_alive_s=request.keep_alive_s, matching=plan.matching
        )

    async def _facts(self, model: Model) -> HeaderFacts:
        entry = model.entry
        if entry is None:
            return HeaderFacts(0, None)
        if entry.refusal:
            return HeaderFacts(0, None, entry.refusal)
        if entry not in self._known_facts:
            try:
                # A large vocabulary takes a while, and nobody else should wait for it.
                header = await asyncio.to_thread(self._catalog.header, entry)
            except (GgufError, OSError) as error:
                # Not for us to refuse: the engine knows best what it can load, and says why it
                # cannot.
                log.warning("header_not_read", model=model.name, error=str(error))
                return HeaderFacts(0, None)
            self._known_facts[entry] = header_facts(header)
        return self._known_facts[entry]


def _lacks_split(backend: Backend) -> bool:
    """Whether it was loaded with no split, as if its experts could move, and they cannot."""
    return backend.options.split is None and backend.engine.moves_by_reload
