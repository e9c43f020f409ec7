"""Measures a model at several splits, by moving the experts of one worker that is loaded once.

It runs a whole proxy of its own, on a port of its own, under the same policies: so the model is
loaded as it would be, and reserves and limits of the devices are kept.
"""

import asyncio
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import aiohttp

from proxy.api.services import Services
from proxy.app import Settings, running
from proxy.bench.asking import prompt_of, session_with, speed_of
from proxy.bench.caches import measure_caches
from proxy.bench.question import Question as Question
from proxy.control.speed_curve import Curve, Point, splits_to_try
from proxy.control.speed_store import device_ids, engine_id, model_id, save
from proxy.engine.types import LoadOptions
from proxy.errors import BadRequest, Conflict
from proxy.placement.assign import placed
from proxy.placement.parallel import most
from proxy.policy.model import Policies
from proxy.pool.state import Backend
from proxy.routing.request import ModelRequest

# Repacking what went to the CPU takes seconds for each GiB; a speed from before its end is too low.
SETTLE_S = 900.0


async def measure(
    question: Question,
    say: Callable[[str], None],
    step: Callable[[int, int], None] = lambda done, of: None,
) -> tuple[Curve, Path]:
    """The curve, and the file that it was stored in. `say` is told how it goes on, `step` how many
    measurements are done, and of how many.

    Raises StartupError for bad policies, and ProxyError: ModelNotFound, BadRequest for sizes that
    do not go together, LoadFailed, Conflict where no experts can move.
    """
    settings = Settings(host="127.0.0.1", port=0, policies=question.policies)
    async with running(settings) as proxy:
        services = proxy.services
        options = await _options(services, question)
        if question.prompt + question.tokens > options.ctx:
            raise BadRequest(
                f"{question.prompt} + {question.tokens} tokens do not fit into a context of "
                f"{options.ctx}; use --ctx"
            )
        say(f"loading {options.model}")
        async with await services.pool.acquire(options) as lease:
            bench = _Bench(services, lease.backend, question, say, step)
            points = await bench.run()
            devices = device_ids(await lease.backend.engine.devices())
            blocks = lease.backend.engine.known().block_count
        curve = Curve(
            model=options.model,
            model_id=await asyncio.to_thread(model_id, options.path),
            devices=devices,
            engine=engine_id(options.libdir, options.backends),
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            block_count=blocks,
            ctx=options.ctx,
            prompt_tokens=question.prompt,
            generated_tokens=question.tokens,
            rounds=question.rounds,
            points=points,
            caches=await measure_caches(services, options, question, say),
        )
        state = services.policies.current.catalog.state
        return curve, await asyncio.to_thread(save, state, curve)


async def _options(services: Services, question: Question) -> LoadOptions:
    """How the model would be loaded, with experts that can move. A file need not be in the
    catalogue."""
    policies = services.policies.current
    name, file = _named(question.model, policies)
    if file is not None:
        usual = policies.defaults
        return LoadOptions(
            name,
            file,
            ctx=question.ctx or usual.ctx,
            parallel=most(usual.parallel),
            rpc=usual.rpc,
            repack=usual.repack,
            libdir=policies.engine.libdir,
            backends=policies.engine.backends,
            threads=policies.engine.threads,
        )
    request = ModelRequest(name, ctx=question.ctx)
    options = await services.planner.load_options(
        services.resolver.resolve(name), request, "generation"
    )
    if options.engine != "hosted":
        raise Conflict(f"{name} has a command for an engine: its experts cannot move")
    # With neither a split nor a cache to begin with, whatever the policies say or was measured.
    return replace(options, split=None, cache_mib=0, cached_layers=0)


def _named(model: str, policies: Policies) -> tuple[str, Path | None]:
    """The model's name, and its file where only the file is known."""
    path = Path(model)
    if not model.lower().endswith(".gguf") or not path.is_file():
        return model, None
    path = path.resolve()
    for known in policies.models.values():
        if known.path and known.path.resolve() == path:
            return known.name, None
    return path.stem, path


class _Bench:
    """One loaded backend, measured in rounds that take turns, so that whatever else the machine
    does falls on all splits."""

    def __init__(
        self,
        services: Services,
        backend: Backend,
        question: Question,
        say: Callable[[str], None],
        step: Callable[[int, int], None],
    ) -> None:
        self._services, self._backend = services, backend
        self._question, self._say, self._step = question, say, step
        # Split -> (generation, prompt) tokens per second of each round.
        self._seen: dict[int, list[tuple[float, float]]] = {}

    async def run(self) -> tuple[Point, ...]:
        engine = self._backend.engine
        if not engine.live_moves or not engine.known().layers:
            raise Conflict(
                f"there is nothing to compare: {engine.why_no_moves or 'the model has no experts'}"
            )
        layers = engine.known().block_count
        wanted = self._question.splits or splits_to_try(layers)
        async with session_with(engine.address) as session:
            prompt = await prompt_of(session, self._question.prompt)
            splits = await self._reachable(session, prompt, [min(n, layers) for n in wanted])
            total = len(splits) * self._question.rounds
            self._step(0, total)
            for number in range(self._question.rounds):
                # Forth and back: what warms up or slows down over time falls on all alike.
                for split in splits if number % 2 else reversed(splits):
                    await self._go_to(split)
                    speed = await speed_of(session, prompt, self._question.tokens)
                    self._seen[split].append(speed)
                    where = f"round {number + 1} of {self._question.rounds}, N = {split}"
                    self._say(f"{where}: {speed[0]:.1f} tok/s, prompt {speed[1]:.1f} tok/s")
                    self._step(sum(map(len, self._seen.values())), total)
        return tuple(_point(split, self._seen[split]) for split in splits)

    async def _reachable(
        self, session: aiohttp.ClientSession, prompt: list[int], wanted: Sequence[int]
    ) -> list[int]:
        """What there is room for, each warmed up: pages are read, buffers have their size."""
        for split in sorted(set(wanted), reverse=True):
            reached = await self._go_to(split)
            if reached != split:
                self._say(f"N = {split} has no room on the device; N = {reached} has")
            if reached not in self._seen:
                self._seen[reached] = []
                # On a slow machine this takes longer than to load it.
                self._say(f"warming up at N = {reached}")
                await speed_of(session, prompt, 1)
        return sorted(self._seen)

    async def _go_to(self, split: int) -> int:
        """Move there, and wait until that is all done; returns the split that was reached."""
        engine = self._backend.engine
        await self._services.controller.operator(self._backend.id, split)
        await engine.place(placed(engine.known()), settle_s=SETTLE_S)
        return engine.known().moe_cpu_layers


def _point(split: int, speeds: Sequence[tuple[float, float]]) -> Point:
    generation = [speed[0] for speed in speeds]
    middle = statistics.median(generation)
    spread = (max(generation) - min(generation)) / middle if middle else 0.0
    prompt = statistics.median(speed[1] for speed in speeds)
    return Point(split, round(middle, 3), round(prompt, 3), round(spread, 4))
