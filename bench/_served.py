"""A proxy in a process of its own, for benches that measure the process: its time, its memory, what
the kernel counts of it."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from proxy.engine.ports import free_port

START_S = 60.0
LOOK_S = 0.001
WAKES = Path(__file__).with_name("_wakes.py")


@dataclass(frozen=True, slots=True)
class Served:
    """A proxy that serves. From making its process: when its port took connections, when it had
    answered, and how long it had computed until then."""

    pid: int
    port: int
    listens_s: float
    answers_s: float
    start_cpu_s: float
    counts: Path  # where one that counts its wakes writes them down

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[aiohttp.ClientSession]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            f"http://127.0.0.1:{self.port}", connector=connector
        ) as session:
            yield session

    async def load(self, model: str) -> None:
        async with self.session() as session, session.post(f"/admin/models/{model}/load") as answer:
            if answer.status != 200:
                raise SystemExit(f"{model} is not loaded: {await answer.text()}")

    @contextlib.asynccontextmanager
    async def page(self) -> AsyncIterator[None]:
        """An open page: who follows the state as it changes."""

        async def follow() -> None:
            async with self.session() as session, session.get("/admin/events?state&after=0") as all:
                async for _ in all.content.iter_any():
                    pass

        following = asyncio.create_task(follow())
        try:
            yield
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following

    async def counted(self) -> Mapping[str, Any]:
        """What one that counts has counted until now."""
        self.counts.unlink(missing_ok=True)
        os.kill(self.pid, signal.SIGUSR2)
        async with asyncio.timeout(START_S):
            while not self.counts.exists():
                await asyncio.sleep(0.01)
        found: Mapping[str, Any] = json.loads(self.counts.read_text())
        return found


@contextlib.asynccontextmanager
async def served(
    folder: Path, text: str, checkout: Path, *, counts_wakes: bool = False
) -> AsyncIterator[Served]:
    """The proxy of a checkout, with policies of this text."""
    file, counts = folder / "policies.toml", folder / "counts.json"
    file.write_text(text)
    port = free_port()
    program = (str(WAKES), str(counts)) if counts_wakes else ("-m", "proxy.cli.main")
    began_s = time.perf_counter()
    with (folder / "log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *program, "serve", "--port", str(port), "--policies", str(file)),
            *("--log-format", "json"),
            cwd=checkout,
            env=_environment(folder, checkout),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=log,
        )
    try:
        async with asyncio.timeout(START_S):
            await _until_it_listens(process, port, folder / "log")
            listens_s = time.perf_counter() - began_s
            await _until_it_answers(port)
            answers_s = time.perf_counter() - began_s
        yield Served(process.pid, port, listens_s, answers_s, cpu_s(process.pid), counts)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _environment(folder: Path, checkout: Path) -> dict[str, str]:
    # A state folder is one proxy's.
    own = {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder), "PYTHONPATH": str(checkout)}
    env = os.environ | own
    # Users have byte code; without it, half of a start is the compiler's.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    return env


async def _until_it_listens(process: asyncio.subprocess.Process, port: int, log: Path) -> None:
    while process.returncode is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=START_S).close()
        except OSError:
            await asyncio.sleep(LOOK_S)
        else:
            return
    raise SystemExit(f"the proxy ended with status {process.returncode}: {log.read_text()}")


async def _until_it_answers(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    if not (await reader.read()).startswith(b"HTTP/1.1 200"):
        raise SystemExit("the proxy does not answer")
    writer.close()


def cpu_s(pid: int) -> float:
    """The time that all threads of a process have computed, those that ended too."""
    # CPUCLOCK_SCHED of that process: to the nanosecond, where /proc/PID/stat counts ticks.
    return time.clock_gettime((~pid << 3) | 2)


def switches(pid: int) -> int:
    """How often the threads of a process have gone to sleep by themselves: each time, something
    woke them."""
    total = 0
    for status in _texts(Path(f"/proc/{pid}/task"), "status"):
        total += int(re.findall(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.M)[0])
    return total


def memory_mib(pid: int) -> tuple[float, float]:
    """Resident, and what of it counts where shared pages are divided among who shares them."""
    sizes = dict(
        re.findall(r"^(\w+):\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
    )
    return int(sizes["Rss"]) / 1024, int(sizes["Pss"]) / 1024


def worker_of(pid: int) -> int:
    """The process of the worker that a proxy has."""
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"proxy.worker" in (folder / "cmdline").read_bytes():
                return int(folder.name)
    raise SystemExit(f"process {pid} has no worker")


def _texts(folder: Path, name: str) -> Iterator[str]:
    for each in folder.iterdir():
        with contextlib.suppress(OSError):  # a thread that ends
            yield (each / name).read_text()
