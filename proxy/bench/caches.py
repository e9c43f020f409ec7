"""Measures a model with llama.cpp's expert cache, where the build has one: a cache alone, and one
beside as many whole layers as fit. Each takes a load of its own, since its size is set once."""

import asyncio
import statistics
from collections.abc import Callable
from dataclasses import replace

from proxy.api.services import Services
from proxy.bench.asking import prompt_of, session_with, speed_of
from proxy.bench.question import Question
from proxy.catalog.gguf_reader import read_header
from proxy.control.capacity import capacity
from proxy.control.speed_curve import CachePoint
from proxy.engine.build_options import has_expert_cache
from proxy.engine.types import LoadOptions
from proxy.errors import LoadFailed
from proxy.placement.expert_cache import SHARES, ExpertCache, choose_cache
from proxy.placement.footprint import settings_of
from proxy.text import gib


async def measure_caches(
    services: Services, options: LoadOptions, question: Question, say: Callable[[str], None]
) -> tuple[CachePoint, ...]:
    """What each share of the experts' room gives; none where the build has no cache, or where a
    cache makes no sense, which `say` is told. `options` have none; nothing is loaded afterwards."""
    await services.pool.unload(options.model)
    if not await asyncio.to_thread(has_expert_cache, options.libdir):
        return ()
    found = []
    for share in SHARES:
        cache = await asyncio.to_thread(_cache, services, options, share)
        if cache.why is not None:
            say(f"no expert cache is measured: {cache.why}")
            break
        cached = replace(options, cache_mib=cache.size_mib, cached_layers=cache.layers)
        try:
            found.append(await _measured(services, cached, share, question, say))
        except LoadFailed as error:
            say(f"with an expert cache of {gib(cache.size_bytes)} it cannot be loaded: {error}")
        await services.pool.unload(options.model)
    return tuple(found)


def _cache(services: Services, options: LoadOptions, share: float) -> ExpertCache:
    policies = services.policies.current
    budgets = capacity(services.memory, services.ledger, policies, options.rpc)
    return choose_cache(read_header(options.path), settings_of(options), budgets, share=share)


async def _measured(
    services: Services,
    options: LoadOptions,
    share: float,
    question: Question,
    say: Callable[[str], None],
) -> CachePoint:
    """Raises LoadFailed."""
    size = options.cache_mib << 20
    say(f"loading with an expert cache of {gib(size)} for {options.cached_layers} layers")
    async with await services.pool.acquire(options) as lease:
        engine = lease.backend.engine
        if engine.live_moves:
            # As many of the others as fit.
            await services.controller.operator(lease.backend.id, options.cached_layers)
        async with session_with(engine.address) as session:
            prompt = await prompt_of(session, question.prompt)
            # Experts come into a cache as they are used: once is not enough to be warm.
            await speed_of(session, prompt, question.tokens)
            speeds = []
            for number in range(question.rounds):
                speeds.append(await speed_of(session, prompt, question.tokens))
                where = f"round {number + 1} of {question.rounds}, cache of {gib(size)}"
                say(f"{where}: {speeds[-1][0]:.1f} tok/s, prompt {speeds[-1][1]:.1f} tok/s")
    generation = [speed[0] for speed in speeds]
    middle = statistics.median(generation)
    return CachePoint(
        share,
        size,
        options.cached_layers,
        round(middle, 3),
        round(statistics.median(speed[1] for speed in speeds), 3),
        round((max(generation) - min(generation)) / middle if middle else 0.0, 4),
    )
