"""A program that a supervisor runs: started, heard, told, ended; kept going until it is let go.

Threads do what blocks. `keep_group` has it ended however the supervisor ends.
"""

import asyncio
import contextlib
import json
import logging
import logging.handlers
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog

from proxy.engine.guardian import MARK, forget_group, keep_group
from proxy.errors import reason_of

log = structlog.get_logger()

LAST_LINES: Final = 8
LOG_BYTES, LOG_FILES = 8 << 20, 2
FIRST_WAIT_S, MOST_WAIT_S = 0.5, 15.0
# One that has run for so long is begun again at once.
WELL_S: Final = 60.0
KILLED_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Program:
    argv: Sequence[str]
    env: Mapping[str, str]
    pass_fds: Sequence[int] = ()


class Child:
    """One process. What it says on standard error goes to a file, `heard` is called with each line,
    on a thread."""

    def __init__(self, program: Program, file: Path, heard: Callable[[str], None]) -> None:
        """Starts it. Blocking. Raises OSError."""
        self._process = subprocess.Popen(
            list(program.argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**program.env, **MARK},
            pass_fds=tuple(program.pass_fds),
            start_new_session=True,
        )
        keep_group(self.pid)
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self.began_s: Final = time.monotonic()
        self.ended: Final[Future[int]] = Future()
        self._heard = heard
        self._input: _Latest = _Latest()
        for work in (self._wait, self._write):
            threading.Thread(target=work, daemon=True, name=f"child {self.pid}").start()
        self._reader = threading.Thread(
            target=self._read, args=(file,), daemon=True, name=f"log of {self.pid}"
        )
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, line: bytes) -> None:
        """On its standard input; of several that it has not taken yet, the last one."""
        self._input.put(line)

    async def end(self, within_s: float, *, hurry_s: float | None = None) -> None:
        """Let it end in order, and kill it, and what it has started, after that time. After
        `hurry_s` it is told a second time: then ours end what they are at."""
        if within_s > 0:
            self._signal(signal.SIGTERM)
            if hurry_s is not None and hurry_s < within_s:
                await self._has_ended(hurry_s)
                self._signal(signal.SIGTERM)
                within_s -= hurry_s
            await self._has_ended(within_s)
        self._signal(signal.SIGKILL)
        await self._has_ended(KILLED_S)

    async def _has_ended(self, within_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self.ended)), within_s)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(OSError):
            if not self.ended.done():
                os.killpg(self.pid, number)

    def _wait(self) -> None:
        status = self._process.wait()
        # What it has said last is to be known with its end; whoever else has its pipe is not
        # waited for.
        self._reader.join(5.0)
        forget_group(self.pid)
        self._input.put(None)
        self.ended.set_result(status)

    def _write(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError), self._process.stdin as pipe:
            while (line := self._input.get()) is not None:
                pipe.write(line)
                pipe.flush()

    def _read(self, file: Path) -> None:
        assert self._process.stderr is not None
        with contextlib.closing(log_file(file)) as writer, self._process.stderr as pipe:
            for raw in pipe:
                line = raw.decode(errors="replace").rstrip("\n")
                self.last_lines.append(line)
                writer.emit(logging.makeLogRecord({"msg": line}))
                self._heard(line)


class Kept:
    """A program that is to run: begun again, ever later, whenever it ends."""

    def __init__(
        self,
        name: str,
        program: Callable[[], Awaitable[Program]],
        file: Path,
        *,
        heard: Callable[[str], None] = lambda line: None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self.name, self.file = name, file
        self._program, self._heard, self._ended = program, heard, ended
        # What changes:
        self.child: Child | None = None
        self.failure = ""  # why it ended last
        self._line: bytes | None = None

    @property
    def runs_for_s(self) -> float:
        return time.monotonic() - self.child.began_s if self.child is not None else 0.0

    def tell(self, line: bytes) -> None:
        """It, and each that comes after it."""
        self._line = line
        if self.child is not None:
            self.child.tell(line)

    async def run(self) -> None:
        """Until cancelled; then it is still there, for `end`."""
        clock = asyncio.get_running_loop().time
        wait_s = FIRST_WAIT_S
        while True:
            began_s = clock()
            try:
                program = await self._program()
                self.child = await asyncio.to_thread(Child, program, self.file, self._heard)
                log.info("fleet_child_started", child=self.name, pid=self.child.pid)
                if self._line is not None:
                    self.child.tell(self._line)
                status = await asyncio.shield(asyncio.wrap_future(self.child.ended))
                said = "\n".join(self.child.last_lines)
                words = last_words(self.child.last_lines)
                self.failure = f"{_how(status)}: {words}" if words else _how(status)
                log.error("fleet_child_ended", child=self.name, how=_how(status), said=said)
            except OSError as error:
                self.failure = f"cannot be started: {reason_of(error)}"
                log.error("fleet_child_not_started", child=self.name, reason=reason_of(error))
            self.child = None
            self._ended()
            wait_s = FIRST_WAIT_S if clock() - began_s > WELL_S else wait_s
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, MOST_WAIT_S)

    async def end(self, within_s: float, *, hurry_s: float | None = None) -> None:
        """After `run` was cancelled."""
        child, self.child = self.child, None
        self.failure = ""  # of this life; it is no news in the next one
        if child is not None:
            await child.end(within_s, hurry_s=hurry_s)
            self._ended()


@dataclass(slots=True)
class _Latest:
    """Hands the newest line to the thread that writes; None: there will be none."""

    _ready: threading.Condition = field(default_factory=threading.Condition)
    _line: bytes | None = None
    _over: bool = False

    def put(self, line: bytes | None) -> None:
        with self._ready:
            self._line, self._over = line, self._over or line is None
            self._ready.notify()

    def get(self) -> bytes | None:
        with self._ready:
            self._ready.wait_for(lambda: self._over or self._line is not None)
            line, self._line = self._line, None
            return None if self._over else line


def log_file(file: Path) -> logging.Handler:
    """Text goes there as it is; it does not grow without end."""
    handler = logging.handlers.RotatingFileHandler(
        file, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8"
    )
    handler.setFormatter(logging.Formatter("%(message)s"))
    return handler


def serving_url(line: str) -> str | None:
    """Where a proxy serves, if this line of its log says so."""
    if '"serving"' not in line:
        return None
    try:
        found: Any = json.loads(line)
        return str(found["url"]) if found.get("event") == "serving" else None
    except (ValueError, KeyError, AttributeError):
        return None


def last_words(lines: Sequence[str] | deque[str]) -> str:
    """Of what it has said, what tells why it ended: plain text, which only a failed start writes,
    else the last error of its log; "" where it was about something else."""
    plain = [line for line in lines if line.strip() and not line.startswith("{")]
    errors = [words for line in lines if (words := _error_in(line))]
    return " ".join(" ".join(plain or errors[-1:]).split())[:500]


def _error_in(line: str) -> str:
    """What a line of a proxy's log says, if that is an error."""
    try:
        said: Any = json.loads(line)
        if said.get("level") not in ("error", "critical"):
            return ""
        why = said.get("error") or said.get("reason") or ""
        return ": ".join(filter(None, (str(said["event"]), str(why))))
    except (ValueError, KeyError, AttributeError):
        return ""


def _how(status: int) -> str:
    return f"ended with status {status}" if status >= 0 else f"killed by signal {-status}"
