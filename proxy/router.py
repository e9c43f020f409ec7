"""From what a request asks to the backend that answers it: which model, loaded how, with which
split."""

import asyncio
import difflib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol, TypeVar

import structlog

from proxy.batches import Batches, Capacity
from proxy.catalog.engine_only import why_not
from proxy.catalog.gguf import GgufError, Header
from proxy.catalog.local import Catalog, Entry
from proxy.effective import effective_policy
from proxy.engine.types import LoadOptions, Mode
from proxy.errors import BackendDied, BadRequest, Conflict, ModelNotFound
from proxy.policy.model import ModelPolicy, Policies
from proxy.pool.events import Terms
from proxy.pool.key import serves
from proxy.pool.lease import Lease
from proxy.pool.pool import Pool
from proxy.pool.state import Backend, BackendState
from proxy.split import ALL, AUTO, Split, resolve

log = structlog.get_logger()
T = TypeVar("T")

# How long the end of a process may take to reach us after its connection broke.
DEATH_IS_KNOWN_S: Final = 2.0
# "All layers" for a file whose number of layers we cannot read: more than any model has.
MORE_THAN_ALL: Final = 999
# Of what requests asked for, this much is remembered; names and numbers are the clients' to choose.
MOST_KEPT: Final = 4096
MODES: Final[tuple[Mode, ...]] = ("generation", "embedding", "rerank")


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request asks of the proxy. None: nothing in particular."""

    model: str
    split: Split | None = None
    ctx: int | None = None
    keep_alive_s: float | None = None  # 0: unload when idle; infinity: for ever


@dataclass(frozen=True, slots=True)
class Model:
    """A model that was found: its one name, its file, and what holds for it."""

    name: str
    path: Path
    policy: ModelPolicy
    entry: Entry | None  # None where only a policy knows the model
    policies: Policies  # the set that all of this comes from: one request sees one set
    loaded_as: str = ""  # the base, where this is a variant that shares its backend

    @property
    def takes_media(self) -> bool:
        """Whether pictures and sounds may have a way into it; where that is not known, the engine
        has to say."""
        known = self.entry is not None and self.policy.engine == "hosted"
        projector = self.entry and self.entry.projector
        return not known or projector is not None or "--mmproj" in self.policy.args

    def check_media(self) -> None:
        """Raise BadRequest for pictures and sounds where there is no way for them."""
        if not self.takes_media:
            raise BadRequest(
                f"{self.name} does not take images or audio: it has no projector (an mmproj file)",
                param="model",
            )


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be asked of the pool for a request."""

    options: LoadOptions
    terms: Terms


@dataclass(frozen=True, slots=True)
class Shape:
    """What the header of a model's file says; 0 and None where it says nothing."""

    layers: int
    trained_ctx: int | None
    refusal: str | None = None  # why llama.cpp cannot load it
    dense: bool = False  # it has no experts
    pools: bool = True  # it makes one vector of a text by itself


@dataclass(frozen=True, slots=True)
class _Known:
    """What requests came to under one set of policies and one scan of the folders; requests are
    many, and these change rarely."""

    policies: Policies
    scan: object
    models: dict[str, Model] = field(default_factory=dict)
    plans: dict[tuple[Ask, Mode], Plan] = field(default_factory=dict)


class Controller(Protocol):
    """Who moves experts."""

    async def ask(self, backend: Backend, split: Split) -> object:
        """Bring `backend` to the split that a request asks for; returns when the request may go
        on."""


class Router:
    """Finds backends for requests. Reads policies and catalogue anew for each, so both may change
    at any time."""

    def __init__(
        self,
        policies: Callable[[], Policies],
        catalog: Catalog,
        pool: Pool,
        controller: Controller,
        capacity: Capacity = lambda _: (),
    ) -> None:
        """`capacity` tells what of the devices, with these RPC servers, a model could have."""
        self._policies = policies
        self._batches = Batches(catalog, capacity)
        self._catalog = catalog
        self._pool = pool
        self._controller = controller
        # What changes: headers that were read, by entry; another file under the same name is
        # another entry.
        self._shapes: dict[Entry, Shape] = {}
        self._known = _Known(policies(), catalog.scan)

    def resolve(self, name: str) -> Model:
        """The model that `name` means: a name or alias of a policy, or what the catalogue finds.

        Raises ModelNotFound with the names that come close.
        """
        models = self._now().models
        if (model := models.get(name)) is None:
            model = self._resolve(name)
            if len(models) < MOST_KEPT:
                models[name] = model
        return model

    def _now(self) -> _Known:
        policies, scan = self._policies(), self._catalog.scan
        if self._known.policies is not policies or self._known.scan is not scan:
            self._known = _Known(policies, scan)
        return self._known

    def _resolve(self, name: str) -> Model:
        policies = self._policies()
        own = policies.models.get(policies.resolve(name))
        entry = self._catalog.find(own.name if own else name)
        if own and own.base is not None and own.path is None:
            base = self.resolve(own.base)
            policy = effective_policy(own, base.entry)
            return replace(base, name=own.name, policy=policy, loaded_as=base.name)
        if own:
            own = effective_policy(own, entry)
            path = own.path or (entry and entry.path)
            if path or own.engine == "command":
                # A command may know its model by its own means; then the name is all there is to
                # fill in.
                return Model(own.name, path or Path(own.name), own, entry, policies)
        elif entry:
            policy = effective_policy(self._policy_of(entry, policies), entry)
            return Model(policy.name, entry.path, policy, entry, policies)
        raise ModelNotFound(self._not_found(name, policies), param="model")

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
        plans = [await self._plan(Ask(model.name), mode) for mode in MODES]
        return [
            backend
            for backend in found
            if any(serves(backend.options, p.options, p.terms.leaves_open) for p in plans)
        ]

    async def plan(self, ask: Ask, mode: Mode) -> Plan:
        """The load options for a request, and how free the pool is with them.

        Raises ModelNotFound, BadRequest for a file that llama.cpp cannot load, and Conflict for a
        split that the model's engine cannot have.
        """
        return await self._with_batch(ask, await self._plan(ask, mode))

    async def _with_batch(self, ask: Ask, plan: Plan) -> Plan:
        """Only a load needs it, and it may take a while to choose."""
        model = self.resolve(ask.model)
        layers = (await self._shape(model)).layers
        ubatch = await self._batches.choose(model.entry, model.policy, plan.options, layers)
        return replace(plan, options=replace(plan.options, ubatch=ubatch))

    async def _plan(self, ask: Ask, mode: Mode) -> Plan:
        known = self._now()
        if (plan := known.plans.get((ask, mode))) is not None:
            return plan
        model = self.resolve(ask.model)
        shape = await self._shape(model)
        plan = self._plan_for(ask, mode, model, shape)
        # A header that could not be read may be there the next time.
        if len(known.plans) < MOST_KEPT and (model.entry is None or model.entry in self._shapes):
            known.plans[ask, mode] = plan
        return plan

    def _plan_for(self, ask: Ask, mode: Mode, model: Model, shape: Shape) -> Plan:
        policy = model.policy
        hosted = policy.engine == "hosted"
        if hosted and shape.refusal:
            raise BadRequest(f"{model.name} cannot be loaded: {shape.refusal}", param="model")
        fills_in = _placeholders(policy)
        ctx_is_ours = hosted or "{ctx}" in fills_in
        ctx = (ask.ctx if ctx_is_ours else None) or policy.ctx
        if shape.trained_ctx and ctx > shape.trained_ctx:
            if ask.ctx == ctx:
                log.info("ctx_clamped", model=model.name, asked=ctx, trained=shape.trained_ctx)
            ctx = shape.trained_ctx
        if not hosted and ask.split not in (None, AUTO) and "{moe_cpu_layers}" not in fills_in:
            raise Conflict(
                f"moe_cpu_layers: the command of {model.name} does not take {{moe_cpu_layers}}",
                param="moe_cpu_layers",
            )
        options = _load_options(model, mode, ctx, _key_split(ask, policy, shape))
        dense, pooling = _moves_ffn(policy, shape), _pooling(options, shape)
        options = replace(options, dense=dense, args=(*pooling, *options.args))
        return Plan(options, _terms(ask, policy, ctx_is_ours=ctx_is_ours))

    async def route(self, ask: Ask, mode: Mode) -> Lease:
        """A lease on a backend that has what the request asks for.

        Raises what `plan`, `Pool.acquire` and the controller raise.
        """
        ask = await self._with_own_split(ask)
        plan = await self._plan(ask, mode)
        if not self._pool.serves(plan.options, plan.terms):
            plan = await self._with_batch(ask, plan)
        lease = await self._acquire(ask, plan)
        # Elsewhere the split is part of the key, so the backend has it.
        if ask.split is None or plan.options.engine != "hosted" or plan.terms.side_by_side:
            return lease
        try:
            moved = await self._controller.ask(lease.backend, ask.split)
        except BackendDied:
            await self._bury(lease)
            raise
        except BaseException:
            lease.release()
            raise
        if moved:
            return lease
        lease.release()
        # This engine's build cannot move experts: a backend that is loaded with the split takes
        # over.
        split = ALL if ask.split == AUTO else ask.split
        layers = (await self._shape(self.resolve(ask.model))).layers
        fixed = replace(plan.options, split=resolve(split, layers or MORE_THAN_ALL))
        named = replace(plan.terms, leaves_open=plan.terms.leaves_open - {"split"})
        return await self._acquire(ask, await self._with_batch(ask, Plan(fixed, named)))

    async def _with_own_split(self, ask: Ask) -> Ask:
        """A variant that shares its base's backend asks for its own split, as a request would."""
        model = self.resolve(ask.model)
        if ask.split is not None or not model.loaded_as:
            return ask
        shape = await self._shape(model)
        split = _policy_split(model.policy, shape)
        bases = _policy_split(self.resolve(model.loaded_as).policy, shape)
        return ask if split == bases else replace(ask, split=split)

    async def with_retry(self, ask: Ask, mode: Mode, send: Callable[[Lease], Awaitable[T]]) -> T:
        """What `send` makes of a lease; once more, on a new backend, if it raises BackendDied.

        So `send` raises that only as long as its client has not got a byte. The second BackendDied
        is raised.
        """
        try:
            return await self._once(ask, mode, send)
        except BackendDied as error:
            log.warning("request_retried", model=ask.model, why=error.message)
        return await self._once(ask, mode, send)

    async def _once(self, ask: Ask, mode: Mode, send: Callable[[Lease], Awaitable[T]]) -> T:
        async with await self.route(ask, mode) as lease:
            try:
                return await send(lease)
            except BackendDied:
                await self._bury(lease)
                raise

    async def _bury(self, lease: Lease) -> None:
        """Give a dead backend back, and wait for the pool to know: it would hand it out again."""
        lease.release()
        await self._pool.until_left(lease.backend, DEATH_IS_KNOWN_S)

    async def _acquire(self, ask: Ask, plan: Plan) -> Lease:
        return await self._pool.acquire(
            plan.options, keep_alive_s=ask.keep_alive_s, terms=plan.terms
        )

    def _policy_of(self, entry: Entry, policies: Policies) -> ModelPolicy:
        """The policy of a file, which may stand under another of its names."""
        for policy in policies.models.values():
            unnamed = policy.path is None and self._catalog.find(policy.name) == entry
            if unnamed or policy.name == entry.name:
                return policy
        return replace(policies.defaults, name=entry.name)

    def _not_found(self, name: str, policies: Policies) -> str:
        if (own := policies.resolve(name)) in policies.models:
            return (
                f"model {own!r} has a policy, but no file: give it a path, or put the file into a "
                "folder of [catalog] dirs"
            )
        shown = name if len(name) <= 80 else name[:80] + "..."
        return f"model {shown!r} not found{self.did_you_mean(name)}"

    def did_you_mean(self, name: str) -> str:
        """The end of the sentence that there is no such model; empty where no name comes close."""
        known = [n for p in self._policies().models.values() for n in (p.name, *p.aliases)]
        near = [*self._catalog.nearest(name), *difflib.get_close_matches(name, known, n=3)]
        names = ", ".join(dict.fromkeys(near))
        return f"; did you mean {names}?" if names else ""

    async def _shape(self, model: Model) -> Shape:
        entry = model.entry
        if entry is None:
            return Shape(0, None)
        if entry.refusal:
            return Shape(0, None, entry.refusal)
        if entry not in self._shapes:
            try:
                # A large vocabulary takes a while, and nobody else should wait for it.
                header = await asyncio.to_thread(self._catalog.header, entry)
            except (GgufError, OSError) as error:
                # Not for us to refuse: the engine knows best what it can load, and says why it
                # cannot.
                log.warning("header_not_read", model=model.name, error=str(error))
                return Shape(0, None)
            self._shapes[entry] = _shape_of(header)
        return self._shapes[entry]


def _shape_of(header: Header) -> Shape:
    return Shape(
        header.layers,
        header.context_length,
        why_not(header),
        dense=not header.is_moe,
        pools=header.pooling not in (None, "none"),
    )


def _placeholders(policy: ModelPolicy) -> str:
    return " ".join(policy.command) if policy.engine == "command" else ""


def _moves_ffn(policy: ModelPolicy, shape: Shape) -> bool:
    """Whether it is a model without experts whose feed-forward weights are to move."""
    return shape.dense and policy.dense_cpu_layers is not None and policy.engine == "hosted"


def _policy_split(policy: ModelPolicy, shape: Shape) -> Split:
    """The policy's split of a model, with experts or without."""
    if policy.dense_cpu_layers is not None and _moves_ffn(policy, shape):
        return policy.dense_cpu_layers
    return policy.moe_cpu_layers


def _key_split(ask: Ask, policy: ModelPolicy, shape: Shape) -> int | None:
    """The split as part of the key: None where the experts of a running backend can move
    instead."""
    hosted = policy.engine == "hosted"
    if hosted and policy.split == "move":
        return None
    if not hosted and "{moe_cpu_layers}" not in _placeholders(policy):
        return None
    split = _policy_split(policy, shape) if ask.split is None else ask.split
    if split == AUTO:
        if hosted:
            return None
        # As long as nobody knows what fits, all experts on the CPU is what surely does.
        split = ALL
    return resolve(split, shape.layers or MORE_THAN_ALL)


def _load_options(model: Model, mode: Mode, ctx: int, split: int | None) -> LoadOptions:
    policy = model.policy
    if policy.engine == "command":
        # A command does whatever it does, in one process: the mode of a request is no key to it.
        return LoadOptions(
            model.loaded_as or model.name,
            model.path,
            mode=policy.mode,
            ctx=ctx,
            parallel=policy.parallel,
            engine="command",
            command=policy.command,
            args=policy.args,
            split=split,
        )
    entry = model.entry
    generates = mode == "generation" and policy.mode == "generation"
    return LoadOptions(
        model.loaded_as or model.name,
        model.path,
        # A model for embeddings is loaded as one, also for a request that only counts its tokens.
        mode=mode if policy.mode == "generation" else policy.mode,
        ctx=ctx,
        parallel=policy.parallel,
        args=policy.args,
        projector=entry.projector if entry and generates else None,
        adapters=entry.adapters if entry else (),
        template=entry.template_file if entry and generates else None,
        rpc=policy.rpc,
        no_attention=tuple(
            sorted(n for n, d in model.policies.devices.named.items() if not d.attention)
        ),
        repack=policy.repack,
        libdir=model.policies.engine.libdir,
        threads=model.policies.engine.threads,
        split=split,
    )


def _pooling(options: LoadOptions, shape: Shape) -> tuple[str, ...]:
    """How a model that was not made for embeddings makes one vector of a text: as Ollama does, of
    its last token, which has seen all others."""
    if options.mode != "embedding" or options.engine != "hosted" or shape.pools:
        return ()
    return () if "--pooling" in options.args else ("--pooling", "last")


def _terms(ask: Ask, policy: ModelPolicy, *, ctx_is_ours: bool) -> Terms:
    leaves_open = set()
    if ask.ctx is None or not ctx_is_ours:
        leaves_open.add("ctx")
    # A hosted engine's split is not in the key, unless it had to be loaded with one: any will do.
    if policy.split == "move" and (ask.split is None or policy.engine == "hosted"):
        leaves_open.add("split")
    return Terms(
        default_keep_alive_s=policy.keep_alive_s,
        leaves_open=frozenset(leaves_open),
        side_by_side=policy.split == "separate",
    )
