"""How a model is loaded for a request: from what is asked, the model and its header, to load
options. Nothing here reads a file or knows what is loaded."""

from dataclasses import dataclass, replace
from typing import Final

import structlog

from proxy.catalog.engine_only import unsupported_reason
from proxy.catalog.gguf import Header
from proxy.engine.command_line import takes_ctx, takes_split
from proxy.engine.types import LoadOptions, Mode
from proxy.errors import BadRequest, Conflict
from proxy.placement.parallel import most
from proxy.policy.model import ModelPolicy
from proxy.pool.events import MatchPolicy
from proxy.routing.request import ModelRequest
from proxy.routing.resolver import Model
from proxy.split import ALL, AUTO, Layers, Split, n_cpu_moe

log = structlog.get_logger()

# "All layers" for a file whose number of layers we cannot read: more than any model has.
MORE_THAN_ALL: Final = 999


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What is to be asked of the pool for a request."""

    options: LoadOptions
    matching: MatchPolicy
    split: Split | None = None  # where its experts are to be moved to once there is a lease


@dataclass(frozen=True, slots=True)
class HeaderFacts:
    """What the header of a model's file says; 0 and None where it says nothing."""

    layers: int
    trained_ctx: int | None
    refusal: str | None = None  # why llama.cpp cannot load it
    dense: bool = False  # it has no experts
    pools: bool = True  # it makes one vector of a text by itself


def header_facts(header: Header) -> HeaderFacts:
    """What counts of a header when its model is loaded."""
    return HeaderFacts(
        header.layers,
        header.context_length,
        unsupported_reason(header),
        dense=not header.is_moe,
        pools=header.pooling not in (None, "none"),
    )


def plan_for(request: ModelRequest, mode: Mode, model: Model, facts: HeaderFacts) -> LoadPlan:
    """What to ask of the pool for a request, but for the batch.

    Raises BadRequest for a file that llama.cpp cannot load, and Conflict for a split that the
    model's engine cannot have.
    """
    policy = model.policy
    hosted = policy.engine == "hosted"
    if hosted and facts.refusal:
        raise BadRequest(f"{model.name} cannot be loaded: {facts.refusal}", param="model")
    ctx_is_ours = hosted or takes_ctx(policy.command)
    ctx = (request.ctx if ctx_is_ours else None) or policy.ctx
    if facts.trained_ctx and ctx > facts.trained_ctx:
        if request.ctx == ctx:
            log.info("ctx_clamped", model=model.name, asked=ctx, trained=facts.trained_ctx)
        ctx = facts.trained_ctx
    if not hosted and request.split not in (None, AUTO) and not takes_split(policy.command):
        raise Conflict(
            f"moe_cpu_layers: the command of {model.name} does not take {{moe_cpu_layers}}",
            param="moe_cpu_layers",
        )
    options = _load_options(model, mode, ctx, _key_split(request, policy, facts))
    dense, pooling = _moves_ffn(policy, facts), _pooling(options, facts)
    options = replace(options, dense=dense, args=(*pooling, *options.args))
    matching = _matching(request, policy, ctx_is_ours=ctx_is_ours)
    # Elsewhere the split is part of the key, so the backend has it.
    return LoadPlan(options, matching, request.split if hosted and not matching.coexist else None)


def loaded_with(plan: LoadPlan, split: Split, facts: HeaderFacts) -> LoadPlan:
    """The plan with `split` as part of the key, for an engine whose experts turned out not to move.

    Raises BadRequest for ranges, which cannot be loaded."""
    options = replace(plan.options, split=_to_load(split, facts))
    unpinned = plan.matching.unpinned - {"split"}
    return LoadPlan(options, replace(plan.matching, unpinned=unpinned))  # nothing is left to move


def with_policy_split(plan: LoadPlan, policy: ModelPolicy, facts: HeaderFacts) -> LoadPlan:
    """The plan with the policy's own number as part of the key, for an engine whose experts turned
    out not to move.

    As it is where a number changes nothing: all experts are on the CPU to begin with. That is also
    what "auto" comes to, since nobody knows what fits, and ranges, which cannot be loaded."""
    split = policy_split(policy, facts)
    no_number = split == AUTO or isinstance(split, Layers)
    has_none = facts.dense and not plan.options.dense
    elsewhere = policy.engine != "hosted" or plan.matching.coexist
    if no_number or has_none or elsewhere or _to_load(split, facts) == _to_load(ALL, facts):
        return plan
    return loaded_with(plan, split, facts)


def policy_split(policy: ModelPolicy, facts: HeaderFacts) -> Split:
    """The policy's split of a model, with experts or without."""
    if policy.dense_cpu_layers is not None and _moves_ffn(policy, facts):
        return policy.dense_cpu_layers
    return policy.moe_cpu_layers


def _moves_ffn(policy: ModelPolicy, facts: HeaderFacts) -> bool:
    """Whether it is a model without experts whose feed-forward weights are to move."""
    return facts.dense and policy.dense_cpu_layers is not None and policy.engine == "hosted"


def _key_split(request: ModelRequest, policy: ModelPolicy, facts: HeaderFacts) -> int | None:
    """The split as part of the key: None where the experts of a running backend can move
    instead."""
    hosted = policy.engine == "hosted"
    if hosted and policy.split == "move":
        return None
    if not hosted and not takes_split(policy.command):
        return None
    split = policy_split(policy, facts) if request.split is None else request.split
    return None if hosted and split == AUTO else _to_load(split, facts)


def _to_load(split: Split, facts: HeaderFacts) -> int:
    """As long as nobody knows what fits, all experts on the CPU is what surely does."""
    return n_cpu_moe(ALL if split == AUTO else split, facts.layers or MORE_THAN_ALL)


def _load_options(model: Model, mode: Mode, ctx: int, split: int | None) -> LoadOptions:
    policy = model.policy
    parallel = most(policy.parallel)  # less is chosen for a load
    if policy.engine == "command":
        # A command does whatever it does, in one process: the mode of a request is no key to it.
        return LoadOptions(
            model.loaded_as,
            model.path,
            mode=policy.mode,
            ctx=ctx,
            parallel=parallel,
            engine="command",
            command=policy.command,
            stop_command=policy.stop_command,
            ready_path=policy.ready_path,
            env=tuple(policy.env.items()),
            args=policy.args,
            split=split,
        )
    entry = (model.base or model).entry
    generates = mode == "generation" and policy.mode == "generation"
    return LoadOptions(
        model.loaded_as,
        model.path,
        # A model for embeddings is loaded as one, also for a request that only counts its tokens.
        mode=mode if policy.mode == "generation" else policy.mode,
        ctx=ctx,
        parallel=parallel,
        args=policy.args,
        unsafe_args=policy.unsafe_args,
        projector=entry.projector if entry and generates else None,
        adapters=entry.adapters if entry else (),
        template=entry.template_file if entry and generates else None,
        rpc=policy.rpc,
        no_attention=tuple(
            sorted(n for n, d in model.policies.devices.named.items() if not d.attention)
        ),
        repack=policy.repack,
        confine=policy.confine,
        libdir=model.policies.engine.libdir,
        backends=model.policies.engine.backends,
        threads=model.policies.engine.threads,
        split=split,
    )


def _pooling(options: LoadOptions, facts: HeaderFacts) -> tuple[str, ...]:
    """How a model that was not made for embeddings makes one vector of a text: as Ollama does, of
    its last token, which has seen all others."""
    if options.mode != "embedding" or options.engine != "hosted" or facts.pools:
        return ()
    return () if "--pooling" in options.args else ("--pooling", "last")


def _matching(request: ModelRequest, policy: ModelPolicy, *, ctx_is_ours: bool) -> MatchPolicy:
    unpinned, hosted = set(), policy.engine == "hosted"
    if request.ctx is None or not ctx_is_ours:
        unpinned.add("ctx")
    # A hosted engine's split is not in the key, unless it had to be loaded with one: any will do.
    if policy.split == "move" and (request.split is None or hosted):
        unpinned.add("split")
    if hosted and policy.parallel == AUTO:
        unpinned.add("parallel")
    return MatchPolicy(
        default_keep_alive_s=policy.keep_alive_s,
        unpinned=frozenset(unpinned),
        coexist=policy.split == "separate",
        max_queue=policy.max_queue,
        pinned=policy.pinned,
    )
