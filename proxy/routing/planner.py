"""What to ask of the pool for a request: the plan of `load_plan`, with what has to be looked up.

The model is handed in, found once for each request; what it came to is remembered.
"""

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Final

import msgspec
import structlog
from cachetools import LRUCache

from proxy.catalog.gguf import BadNumbers, GgufError, Header
from proxy.catalog.local import Catalog, Entry
from proxy.catalog.templates import endless
from proxy.engine.types import LoadOptions, Mode
from proxy.files import is_regular
from proxy.routing.batch_size import Batches, Capacity
from proxy.routing.context_size import Contexts
from proxy.routing.conversations import Conversations
from proxy.routing.expert_caches import ExpertCaches, MeasuredShare, nobody_measured
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
from proxy.routing.resolver import Model
from proxy.split import Split
from proxy.threads import MODELS

log = structlog.get_logger()

# Numbers are the clients' to choose: what was asked for longest ago is forgotten first.
PLANS_KEPT: Final = 4096
HEADERS_KEPT: Final = 1024

_Key = tuple[Model, Split | None, int | None, Mode]


class Planner:
    """Plans requests. What it knows of a model is as old as the model that it is given."""

    def __init__(
        self,
        catalog: Catalog,
        capacity: Capacity = lambda _: (),
        measured: MeasuredShare = nobody_measured,
        look: Callable[[LoadOptions], Coroutine[Any, Any, object]] | None = None,
    ) -> None:
        """`capacity` tells what of the devices, with these RPC servers, a model could have, by what
        was read of them last, `measured` what of that an expert cache is best given; `look` returns
        when they were read not long ago, for a model with these options."""
        self._catalog, self._look = catalog, look
        self._batches = Batches(catalog, capacity)
        self._contexts = Contexts(catalog, capacity)
        self._conversations = Conversations(catalog, capacity)
        self.caches = ExpertCaches(catalog, capacity, measured)
        # What changes: headers that were read, by entry (another file under the same name is
        # another entry), and what requests came to.
        self._facts: LRUCache[Entry, HeaderFacts] = LRUCache(HEADERS_KEPT)
        self._plans: LRUCache[_Key, LoadPlan] = LRUCache(PLANS_KEPT)

    async def plan(self, model: Model, request: ModelRequest, mode: Mode) -> LoadPlan:
        """The plan, but for what only a load needs: the batch, the expert cache, and how many
        conversations where that is left to us.

        Raises BadRequest for a file that llama.cpp cannot load, and Conflict for a split that the
        model's engine cannot have.
        """
        key = (model, request.split, request.ctx, mode)
        if (known := self._plans.get(key)) is not None:
            return known
        facts = await self._facts_of(model)
        plan = plan_for(_with_own_split(request, model, facts), mode, model, facts)
        # A header that could not be read may be there the next time.
        if model.entry is None or model.entry in self._facts:
            self._plans[key] = plan
        return plan

    async def to_load(self, model: Model, plan: LoadPlan) -> LoadPlan:
        """The plan with what only a load needs. Where the request names a context, it is some more
        of that. It may take a while to choose."""
        plan = await self._with_parallel(model, plan)
        if "ctx" not in plan.matching.unpinned:
            facts = await self._facts_of(model)
            ctx = await self._contexts.choose(
                model.entry, model.policy, plan.options, facts.trained_ctx
            )
            plan = replace(plan, options=replace(plan.options, ctx=ctx))
        return await self._with_batch_and_cache(model, plan)

    async def _with_parallel(self, model: Model, plan: LoadPlan) -> LoadPlan:
        if self._look is not None:
            await self._look(plan.options)
        layers = (await self._facts_of(model)).layers
        parallel = await self._conversations.choose(model.entry, model.policy, plan.options, layers)
        return replace(plan, options=replace(plan.options, parallel=parallel))

    async def _with_batch_and_cache(self, model: Model, plan: LoadPlan) -> LoadPlan:
        layers = (await self._facts_of(model)).layers
        ubatch = await self._batches.choose(model.entry, model.policy, plan.options, layers)
        options = replace(plan.options, ubatch=ubatch)
        # With what is left beside that.
        options = await self.caches.choose(model.entry, model.policy, options, layers)
        return replace(plan, options=options)

    async def load_options(
        self, model: Model, request: ModelRequest, mode: Mode, *, moves: bool = True
    ) -> LoadOptions:
        """What a request would have loaded now. `moves`: whether the engine's experts can move;
        else it is loaded with the policy's split. Raises what `plan` raises."""
        plan = await self.plan(model, request, mode)
        if not moves:
            plan = await self.with_policy_split(model, plan)
        plan = await self._with_parallel(model, plan)
        return (await self._with_batch_and_cache(model, plan)).options

    async def longest_input(self, model: Model, request: ModelRequest, tokens: int) -> int | None:
        """How many tokens an input to embed may have, by what is asked for and not by what happens
        to be loaded. None where `tokens` are surely not too many, and where that is the engine's
        business. Raises what `plan` raises."""
        plan = await self.plan(model, request, "embedding")
        return await self._batches.longest_input(model.entry, plan.options, tokens)

    async def with_policy_split(self, model: Model, plan: LoadPlan) -> LoadPlan:
        """The plan for an engine whose experts turned out not to move, by the policy's split."""
        return with_policy_split(plan, model.policy, await self._facts_of(model))

    async def loaded_with(self, model: Model, plan: LoadPlan, split: Split) -> LoadPlan:
        """The same for a request's own split. Raises BadRequest for ranges."""
        return loaded_with(plan, split, await self._facts_of(model))

    async def _facts_of(self, model: Model) -> HeaderFacts:
        entry = model.entry
        if entry is None:
            return HeaderFacts(0, None, await MODELS.run(_no_file, model))
        if entry.refusal:
            return HeaderFacts(0, None, entry.refusal)
        if (known := self._facts.get(entry)) is not None:
            return known
        try:
            # A large vocabulary takes a while, and nobody else should wait for it.
            header = await MODELS.run(self._catalog.header, entry)
        except BadNumbers as error:
            return HeaderFacts(0, None, str(error))
        except (GgufError, OSError) as error:
            # Not for us to refuse: the engine knows best what it can load, and says why it cannot.
            log.warning("header_not_read", model=model.name, error=str(error))
            return HeaderFacts(0, None)
        facts = header_facts(header)
        if facts.refusal is None:
            facts = replace(facts, refusal=await MODELS.run(_endless, entry, header))
        self._facts[entry] = facts
        return facts


def _no_file(model: Model) -> str | None:
    """Why what a policy names would hold a start for ever: nobody may ever write to a pipe."""
    path = model.policy.path
    if path is None or not path.exists() or is_regular(path):
        return None
    return f"{path} is no regular file"


def _endless(entry: Entry, header: Header) -> str | None:
    """Why its chat template would hold a start for ever, if so."""
    own = header.metadata.get("tokenizer.chat_template")
    template = entry.template if entry.template_file else own
    return endless(template) if isinstance(template, str) else None


def _with_own_split(request: ModelRequest, model: Model, facts: HeaderFacts) -> ModelRequest:
    """A variant that shares its base's backend asks for its own split, as a request would."""
    if request.split is not None or model.base is None:
        return request
    own, base = (policy_split(policy, facts) for policy in (model.policy, model.base.policy))
    return request if own == base else msgspec.structs.replace(request, split=own)
