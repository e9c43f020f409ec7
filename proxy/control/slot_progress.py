"""Asks busy backends how far their slots are; what `proxy.observe.rates` samples with."""

import asyncio
from collections.abc import Callable, Iterator

from proxy.control.speed_learned import LearnedSpeeds
from proxy.errors import ProxyError
from proxy.observe.rates import Progress, ReadProgress, Start, Written, progress_of
from proxy.pool.pool import Pool
from proxy.pool.state import Backend, BackendState
from proxy.upstream.call import Call
from proxy.upstream.connection import BrokenAnswer

ANSWER_S = 2.0


def busy_backends(pool: Pool) -> Iterator[Start]:
    """The backends worth asking: those that generate for somebody."""
    for backend in pool.backends():
        if backend.in_flight and backend.state in (BackendState.READY, BackendState.DRAINING):
            yield backend.name


def noted(
    pool: Pool, split: Callable[[Backend], int | None], speeds: LearnedSpeeds
) -> Callable[[Start, Written], None]:
    """Have `speeds` note how fast answers were written, by the `split` that their backend has."""

    def note(start: Start, written: Written) -> None:
        for backend in pool.backends():
            if backend.name == start:
                speeds.note(backend, split(backend), written)

    return note


def slots_progress(pool: Pool) -> ReadProgress:
    async def ask(start: Start) -> Progress | None:
        backend = next((b for b in pool.backends() if b.name == start), None)
        if backend is None:
            return None
        try:
            async with (
                asyncio.timeout(ANSWER_S),
                Call(backend.engine.address, "GET", "/slots") as answer,
            ):
                # Engines other than llama-server do not have it.
                return progress_of(await answer.read()) if answer.status == 200 else None
        except (ProxyError, BrokenAnswer, TimeoutError):
            return None

    return ask
