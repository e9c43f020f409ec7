"""Where a model would go, without loading it: for `moe-proxy plan`, here or in the proxy that runs.

Everything is as `serve` would have it, except for what the question says.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from proxy.catalog.gguf import GgufError, Header
from proxy.catalog.headers import header_at
from proxy.control.capacity import budgets_of, device_sizes
from proxy.control.speed_store import measured_share
from proxy.engine.build_options import NO_CACHE, has_expert_cache
from proxy.engine.types import FLEET, LoadOptions
from proxy.errors import BadRequest
from proxy.memory.host import available_host_bytes
from proxy.memory.ledger import Ledger
from proxy.memory.watch import MemoryWatch
from proxy.placement.commandline import server_args
from proxy.placement.estimate import Settings
from proxy.placement.expert_cache import choose_cache, plan_with_cache
from proxy.placement.footprint import settings_of, ubatch_of
from proxy.placement.kv import KV_TYPES
from proxy.placement.parallel import choose_parallel, most
from proxy.placement.plan import TUNES, Plan, Tune, plan
from proxy.placement.plan_json import plan_json
from proxy.placement.ubatch import choose_ubatch
from proxy.policy.model import ModelPolicy, Policies
from proxy.policy.units import parse_size
from proxy.pool.refusals import pinned
from proxy.pool.selection import pinned_in_the_way
from proxy.pool.state import Backend
from proxy.split import AUTO, Split, count_on_cpu, parse_split
from proxy.threads import MODELS

# What a single device is called where nobody said so.
UNNAMED: Final = "GPU"
# Whoever says less has forgotten the unit.
SMALLEST_DEVICE_BYTES: Final = 2**20
NO_DEVICE: Final = "no device is known; say --vram 12GiB, or load a model first"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked. None: as the policies say. `vram` has whole devices' sizes in bytes, in
    llama.cpp's order; None: those of the proxy that runs."""

    vram: Mapping[str, int] | None = None
    ctx: int | None = None
    parallel: int | None = None
    kv_type: str | None = None
    ubatch: int | None = None
    tune: Tune | None = None
    split: Split | None = None


class ModelPlans:
    """Plans by what the proxy that runs knows of its devices."""

    def __init__(
        self,
        memory: MemoryWatch,
        ledger: Ledger,
        policies: Callable[[], Policies],
        backends: Callable[[], Iterable[Backend]],
    ) -> None:
        self._memory, self._ledger, self._policies = memory, ledger, policies
        self._backends = backends

    async def of(self, policy: ModelPolicy, path: Path, query: Mapping[str, str]) -> dict[str, Any]:
        """The plan, as `plan_json` has it. Raises BadRequest, and Hangs for a disk that does not
        answer."""
        question, policies = question_of(query), self._policies()
        if question.vram is not None:
            return await MODELS.run(plan_model, policy, path, policies, question)
        sizes = device_sizes(self._memory, self._ledger, policies, policy.rpc)
        question = replace(question, vram=sizes)
        made = await MODELS.run(plan_model, policy, path, policies, question)
        # It would have the room, and is refused it.
        asked = LoadOptions(policy.name, path, rpc=policy.rpc)
        if staying := pinned_in_the_way(asked, self._backends()):
            made["problems"].append(pinned(staying))
        return made


def question_of(query: Mapping[str, str]) -> Question:
    """What a URL asks. Raises BadRequest that says what is allowed."""
    split, tune = query.get("moe_cpu_layers"), query.get("tune")
    if tune is not None and tune not in TUNES:
        raise BadRequest(f"tune: {tune!r} is not allowed; use {', '.join(TUNES)}", param="tune")
    try:
        vram = parse_vram(query["vram"]) if "vram" in query else None
    except ValueError as error:
        raise BadRequest(f"vram: {query['vram']!r} is not allowed; use {error}") from None
    return Question(
        vram=vram,
        ctx=_count(query, "ctx"),
        parallel=_count(query, "parallel"),
        kv_type=query.get("kv"),
        ubatch=_count(query, "ubatch"),
        tune=tune,
        split=None if split is None else parse_split(split),
    )


def plan_model(
    policy: ModelPolicy, path: Path, policies: Policies, question: Question
) -> dict[str, Any]:
    """The plan for a model's file, in `plan_json`'s shape. Blocking; raises BadRequest."""
    if not question.vram:
        raise BadRequest(NO_DEVICE)
    header = _header(path)
    settings = _settings(question, policy, header)
    moves = policy.dense_cpu_layers if settings.dense else policy.moe_cpu_layers
    split = next(split for split in (question.split, moves, AUTO) if split is not None)
    given = count_on_cpu(split, header.layers)
    budgets, tune = budgets_of(question.vram, policies), question.tune or policy.tune
    if question.parallel is None and policy.parallel == AUTO:
        parallel = choose_parallel(header, settings, budgets, given)
        settings = replace(settings, parallel=parallel)
    try:
        made = plan(
            header,
            settings,
            budgets,
            ubatch=question.ubatch
            or ubatch_of(policy.args)
            or choose_ubatch(tune, header, settings, budgets, given),
            cpu_layers=given,
            host_free_bytes=available_host_bytes(),
        )
    except ValueError as error:
        raise BadRequest(str(error)) from None
    made = _with_cache(made, header, policy, policies, given)
    has_rpc = any(name.startswith("RPC") for name in question.vram)
    rpc = policy.rpc if has_rpc and FLEET not in policy.rpc else ()
    told = plan_json(made, policy.name, question.vram, server_args(made, path, rpc=rpc))
    asked, trained = question.ctx or policy.ctx, header.context_length
    if trained and asked > trained:
        told["advice"].append(f"it was trained for a context of {trained}: not {asked}")
    return told


def _with_cache(
    made: Plan, header: Header, policy: ModelPolicy, policies: Policies, given: int | None
) -> Plan:
    """The plan with the expert cache that `serve` would load the model with."""
    asked, libdir = policy.moe_cache, policies.engine.libdir
    if policy.engine != "hosted" or policy.mode != "generation" or not asked or not made.fits:
        return made
    if not has_expert_cache(libdir):
        why = "" if asked == AUTO else NO_CACHE
        return replace(made, advice=(*made.advice, f"moe_cache: {why}")) if why else made
    share, size = 0.0, None
    if asked == AUTO:
        share = measured_share(policies.catalog.state, header.files[0], (), libdir=libdir)
    else:
        size = asked
    if not share and not size:
        return made
    cache = choose_cache(
        header, made.settings, made.budgets, size_bytes=size, share=share, cpu_layers=given
    )
    if cache.why is not None:
        return replace(made, advice=(*made.advice, f"no expert cache: {cache.why}"))
    return plan_with_cache(made, header, cache)


def parse_vram(text: str) -> dict[str, int]:
    """Devices and their sizes: "12GiB", or "CUDA0=12GiB,RPC0=8GiB" in llama.cpp's order.

    Raises ValueError that says what is allowed.
    """
    found: dict[str, int] = {}
    for part in text.split(","):
        name, _, size = part.rpartition("=")
        name = name.strip() or UNNAMED
        if name in found:
            raise ValueError(f"{name} is given twice; name each device: CUDA0=12GiB,CUDA1=8GiB")
        found[name] = parse_size(size)
        if found[name] < SMALLEST_DEVICE_BYTES:
            raise ValueError(f"{size} is a number of bytes; say 12GiB")
    return found


def _count(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if text.isdecimal() and len(text) < 10 and int(text) > 0:
        return int(text)
    raise BadRequest(f"{name}: {text!r} is not allowed; use a whole number from 1 up", param=name)


def _settings(question: Question, policy: ModelPolicy, header: Header) -> Settings:
    """What `serve` would load the model with, and over that what the question says."""
    ctx = question.ctx or policy.ctx
    settings = settings_of(
        LoadOptions(
            policy.name,
            header.files[0],
            mode=policy.mode,
            ctx=min(ctx, header.context_length or ctx),
            parallel=question.parallel or most(policy.parallel),
            args=policy.args,
            dense=not header.is_moe and policy.dense_cpu_layers is not None,
        )
    )
    if question.kv_type is not None:
        settings = replace(settings, key_type=question.kv_type, value_type=question.kv_type)
    for kind in (settings.key_type, settings.value_type):
        if kind not in KV_TYPES:
            raise BadRequest(f"KV type {kind!r} is unknown; use {', '.join(KV_TYPES)}")
    return settings


def _header(path: Path) -> Header:
    try:
        return header_at(path)
    except (OSError, GgufError) as error:
        raise BadRequest(str(error)) from None
