"""Workers that wait for a model, with everything loaded but that. Who takes one has its first token
sooner, by the time that Python and llama.cpp's libraries take to start.

When there is to be one decides proxy/control/warm_keeper.py. Counterpart: proxy/worker/waiting.py.
"""

import asyncio
import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from proxy.engine import installed
from proxy.engine.order import WAIT, WAITS
from proxy.engine.process import ChildProcess
from proxy.engine.types import LoadOptions
from proxy.engine.worker_command import PROGRAM, worker_environment
from proxy.errors import LoadFailed
from proxy.tasks import spawn

log = structlog.get_logger()

# What is looked at of a folder of libraries, to see that they were exchanged.
LIBRARY: Final = "libllama.so"
# One that lived as long has died of something else than the one before.
LASTED_S: Final = 60.0
# Only one that the kernel has, as on a disk that is gone, is there any longer when it was killed.
GONE_WITHIN_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Kind:
    """What a worker was started with that cannot be changed later: it serves loads of its own kind
    only. `built` is the inode and the time of change of the libraries."""

    libdir: Path
    built: tuple[int, int]
    env: frozenset[tuple[str, str]]


def kind_of(
    libdir: Path | None, backends: Sequence[Path], env: Mapping[str, str] = os.environ
) -> Kind | None:
    """The kind of worker that loads with these libraries need; None where there are none. Asks the
    disk: not for the event loop."""
    libdir = libdir or installed.folder("lib")
    if libdir is None:
        return None
    try:
        built = (libdir / LIBRARY).stat()
    except OSError:
        return None
    variables = worker_environment(libdir, backends, env)
    return Kind(libdir, (built.st_ino, built.st_mtime_ns), frozenset(variables.items()))


def kind_for(options: LoadOptions) -> Kind | None:
    """The kind for a load; None where it needs a worker that begins otherwise: with a split that is
    fixed, nothing may stand between llama.cpp and its steps. Asks the disk."""
    return None if options.split is not None else kind_of(options.libdir, options.backends)


@dataclass(eq=False, slots=True)
class _Waiting:
    child: ChildProcess
    kind: Kind
    ready: bool = False
    life: "asyncio.Task[None] | None" = None


class WarmWorkers:
    """Those that wait. Belongs to one event loop."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._listener: Callable[[], None] = lambda: None
        # What changes:
        self._waiting: list[_Waiting] = []
        self._going: set[asyncio.Task[None]] = set()  # told to end
        self.died = 0  # how many in a row ended while they waited

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Have `changed` called when one is ready, was taken, or has died."""
        self._listener = changed

    @property
    def ready(self) -> int:
        return sum(each.ready for each in self._waiting)

    def count(self, kind: Kind | None) -> int:
        """How many of this kind there are, ready or not yet."""
        return sum(each.kind == kind for each in self._waiting)

    def start(self, kind: Kind) -> None:
        """One more. It is ready a moment later."""
        name = f"warm{next(self._numbers)}"
        argv = (*PROGRAM, WAIT, str(kind.libdir))
        child = ChildProcess(argv, dict(kind.env), name, on_line=lambda line: self._hear(it, line))
        it = _Waiting(child, kind)
        self._waiting.append(it)
        it.life = spawn(self._live(it), name=name)
        self._listener()

    def take(self, kind: Kind | None) -> ChildProcess | None:
        """One of this kind, which is the caller's from now on: what is ready first, else what will
        be soon. None where there is none."""
        fitting = [x for x in self._waiting if x.kind == kind and x.child.returncode is None]
        fitting = [x for x in fitting if x.child.pid is not None]
        if not fitting:
            return None
        taken = max(fitting, key=lambda each: each.ready)
        self._waiting.remove(taken)
        self.died = 0
        self._listener()
        return taken.child

    async def keep(self, most: int, kind: Kind | None) -> None:
        """End those that are too many, or of another kind. Returns when they are gone."""
        same = [each for each in self._waiting if each.kind == kind][:most]
        leaving = [each for each in self._waiting if each not in same]
        self._waiting = same
        for each in leaving:
            # At once: there is nothing that it would have to finish.
            spawn(each.child.stop(0.0), name=f"{each.child.name}:stop")
            if each.life is not None:
                self._going.add(each.life)
                each.life.add_done_callback(self._going.discard)
        if self._going:
            await asyncio.wait(tuple(self._going), timeout=GONE_WITHIN_S)

    async def end(self) -> None:
        """All of them, those that were told to before among them."""
        await self.keep(0, None)

    def _hear(self, it: _Waiting, line: str) -> None:
        if line == WAITS and it in self._waiting:
            it.ready = True
            self._listener()

    async def _live(self, it: _Waiting) -> None:
        """From its start to its end, whoever has it by then."""
        began_s = time.monotonic()
        try:
            await it.child.start()
            status = await it.child.wait()
        except LoadFailed as error:
            why = error.message
        else:
            why = f"exit status {status}\n{it.child.words.quoted()}"
        if it in self._waiting:
            log.warning("warm_worker_died", why=why)
            self._waiting.remove(it)
            lasted = time.monotonic() - began_s > LASTED_S
            self.died = 1 if lasted else self.died + 1
            self._listener()
