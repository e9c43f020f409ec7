"""Learns from answers how fast models are at each split, and keeps that beside their measured
curves: <catalog.state>/bench/<key>.use.json.

Another card, processor or llama.cpp has another key, and so begins anew.
"""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import structlog

from proxy.catalog.gguf import GgufError
from proxy.clock import Clock
from proxy.control.speed_curve import floor_of
from proxy.control.speed_store import device_ids, engine_id, file_of, load, model_id, write_whole
from proxy.control.speed_use import (
    KEPT,
    LEAST,
    MOST_DEPTH,
    NOISE,
    SPACING_S,
    Figure,
    Use,
    kept_true,
    merged,
    speeds_of,
)
from proxy.engine.types import Device, LoadOptions
from proxy.errors import Hangs
from proxy.files import BadJson, decode_json, read_small
from proxy.memory.host import processor
from proxy.observe.rates import Written
from proxy.observe.split_speeds import SplitSpeeds
from proxy.pool.state import Backend, Name
from proxy.tasks import spawn
from proxy.threads import MODELS

log = structlog.get_logger()
T = TypeVar("T")

MAX_USE_BYTES: Final = 1 << 20
# How much a machine that loses its power forgets.
SAVED_S: Final = 300.0


class _Kept(msgspec.Struct):
    splits: dict[int, list[Figure]]


class LearnedSpeeds:
    """Of all backends."""

    def __init__(
        self,
        *,
        state: Callable[[], Path],
        devices_of: Callable[[Backend], Sequence[Device]],
        clock: Clock,
    ) -> None:
        """`state`: the policies' `catalog.state`."""
        self._state, self._devices_of, self._clock = state, devices_of, clock
        self._lately = SplitSpeeds()
        # What changes, by start: what is not on disk yet, since when, and where it belongs.
        self._new: dict[Name, dict[int, list[Figure]]] = {}
        self._since_s: dict[Name, float] = {}
        self._files: dict[Name, Path] = {}
        self._writing = asyncio.Lock()  # a file is read and written anew: one at a time

    def note(self, backend: Backend, split: int | None, written: Written) -> None:
        """For the last second or so answers were written so fast, and this is the split now."""
        speed = written.tokens_per_second
        if not self._lately.note(backend.options.model, split, speed) or split is None:
            return
        if written.answers != 1 or written.depth > MOST_DEPTH:
            return
        if backend.options.cache_mib:  # that says nothing of whole layers
            return
        at_s = int(self._clock.wall().timestamp())  # never in the future
        figures = self._new.setdefault(backend.name, {}).setdefault(split, [])
        # Where the clock was put back, the last one is of a time that is yet to come.
        if figures and 0 <= at_s - figures[-1][0] < SPACING_S:
            return
        figures.append((at_s, round(speed, 3)))
        del figures[:-KEPT]  # where there is nowhere to keep them, they are not to pile up
        since_s = self._since_s.setdefault(backend.name, self._clock.now())
        if backend.name not in self._files or self._clock.now() - since_s > SAVED_S:
            self._since_s[backend.name] = self._clock.now()
            spawn(self._keep(backend), name=f"speeds of {backend.id}")

    def gone(self, backend: Backend) -> None:
        if backend.name in self._new:
            spawn(self._keep(backend, last=True), name=f"speeds of {backend.id}")

    async def close(self) -> None:
        """Keep what is not kept yet."""
        await asyncio.gather(*(self._write(name) for name in tuple(self._new)))

    async def of(self, backend: Backend) -> dict[int, float]:
        """Tokens a second at each split that was in use, from before the proxy's start too."""
        path = await self._file(backend)
        kept = await _on_thread(partial(_read, path)) if path else None
        now_s = self._clock.wall().timestamp()
        known = speeds_of(merged(kept or {}, self._new.get(backend.name, {}), now_s=now_s))
        # What was seen lately, however many answers there were, is what people have.
        return {**known, **self._lately.of(backend.options.model)}

    async def _keep(self, backend: Backend, *, last: bool = False) -> None:
        await self._file(backend)
        await self._write(backend.name)
        if last:
            for by_start in (self._new, self._since_s, self._files):
                by_start.pop(backend.name, None)

    async def _file(self, backend: Backend) -> Path | None:
        """Where it belongs; None where that cannot be told."""
        if backend.name not in self._files and backend.options.engine == "hosted":
            devices = self._devices_of(backend)
            if devices and (
                path := await _on_thread(partial(use_file, self._state(), backend.options, devices))
            ):
                self._files[backend.name] = path
        return self._files.get(backend.name)

    async def _write(self, name: Name) -> None:
        async with self._writing:
            path, new = self._files.get(name), self._new.get(name)
            if path is None or not new:
                return
            # The last one stays, for its spacing.
            self._new[name] = {split: figures[-1:] for split, figures in new.items()}
            now_s = self._clock.wall().timestamp()
            if await _on_thread(partial(_add, path, new, now_s)) is None:
                log.warning("speeds_not_kept", file=str(path))


def use_file(state: Path, options: LoadOptions, devices: Sequence[Device]) -> Path | None:
    """Where a model's speeds in use are kept on this machine; None where its file cannot be read.
    Reads two small pieces of files."""
    files = _files_of(state, options, devices)
    return files[1] if files else None


def learned_floor(
    state: Path, options: LoadOptions, devices: Sequence[Device], now_s: float
) -> int | None:
    """The least `moe_cpu_layers` that "auto" should use, by what `moe-proxy bench` has measured on
    these devices and what use has shown since. None: nothing speaks against more experts on them.
    """
    files = _files_of(state, options, devices)
    if files is None:
        return None
    measured, use = files
    curve = load(measured)
    points = curve.points if curve else ()
    used = speeds_of(merged(_read(use), now_s=now_s), LEAST)
    return floor_of(kept_true(points, used), NOISE) if used else floor_of(points)


def _files_of(
    state: Path, options: LoadOptions, devices: Sequence[Device]
) -> tuple[Path, Path] | None:
    """Of a model's measured curve, and of its speeds in use, which another processor has anew."""
    try:
        model = model_id(options.path)
    except (OSError, GgufError):
        return None
    names, engine = device_ids(devices), engine_id(options.libdir, options.backends)
    here = f"{engine}\n{processor()} x {os.cpu_count()}"
    use = file_of(state, model, names, here).with_suffix(".use.json")
    return file_of(state, model, names, engine), use


def _read(path: Path) -> Mapping[int, Sequence[Figure]]:
    try:
        kept: _Kept = decode_json(read_small(path, MAX_USE_BYTES), _Kept, "no speeds")
    except FileNotFoundError:
        return {}
    except (OSError, BadJson) as error:
        log.warning("speeds_not_read", file=str(path), error=str(error))
        return {}
    return kept.splits


def _add(path: Path, new: Use, now_s: float) -> bool:
    write_whole(path, _Kept(merged(_read(path), new, now_s=now_s)))
    return True


async def _on_thread(work: Callable[[], T]) -> T | None:
    """None where the disk hangs or does not take it."""
    try:
        return await MODELS.run(work)
    except (Hangs, OSError):
        return None
