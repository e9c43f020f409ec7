"""What can happen to a worker, its device, its sockets, its files and the proxy; each is done to
the real thing."""

import contextlib
import os
import random
import resource
import signal
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.reliability.stand import Stand

Worker = dict[str, Any]  # a row of /admin/state


@dataclass(frozen=True, slots=True)
class Fault:
    """`cause` does it. `undo` ends what lasts, so that all can be well again."""

    name: str
    cause: Callable[[Stand, Worker], Awaitable[None]]
    undo: Callable[[Stand], Awaitable[None]] | None = None


def _signal(number: signal.Signals) -> Callable[[Stand, Worker], Awaitable[None]]:
    async def send(_: Stand, worker: Worker) -> None:
        os.kill(worker["pid"], number)

    return send


async def _exit_while_loading(stand: Stand, _: Worker) -> None:
    """Somebody asks for a model whose file is cut off."""
    seen = await stand.ask(model="broken")
    assert seen.status in (500, 503), seen
    assert "broken" in str(seen.error), seen


async def _no_memory(_: Stand, worker: Worker) -> None:
    """No process gets more than it has; a real allocation fails at the next need of one."""
    pages = int(Path(f"/proc/{worker['pid']}/statm").read_text().split()[0])
    most = pages * resource.getpagesize()
    resource.prlimit(worker["pid"], resource.RLIMIT_AS, (most, most))


def _unlink(kind: str) -> Callable[[Stand, Worker], Awaitable[None]]:
    async def unlink(stand: Stand, worker: Worker) -> None:
        with contextlib.suppress(ValueError):  # a worker that loads may have none yet
            stand.socket(worker["id"], kind).unlink(missing_ok=True)

    return unlink


async def _kill_rpc(stand: Stand, _: Worker) -> None:
    stand.rpc.process.kill()
    await stand.rpc.process.wait()


async def _stop_rpc(stand: Stand, _: Worker) -> None:
    stand.rpc.process.send_signal(signal.SIGSTOP)


async def _restart_rpc(stand: Stand) -> None:
    await stand.rpc.close()
    await stand.rpc.start()


async def _garbage(stand: Stand, worker: Worker) -> None:
    """Bytes that mean nothing, to both sockets, by somebody else of the same user."""
    rng = random.Random(1)
    for kind in ("server.sock", "control"):
        for size in (1, 7, 100_000):
            with contextlib.suppress(OSError, ValueError), socket.socket(socket.AF_UNIX) as other:
                other.settimeout(2.0)
                other.connect(str(stand.socket(worker["id"], kind)))
                other.sendall(rng.randbytes(size) + b"\n{}\n")


async def _disk_full(stand: Stand, worker: Worker) -> None:
    """No file of theirs grows any more; writing fails, as on a full disk."""
    for pid in (stand.process.pid, worker["pid"]):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))


async def _disk_has_room(stand: Stand) -> None:
    pids = [stand.process.pid, *(backend["pid"] for backend in await stand.backends())]
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)


async def _kill_proxy(stand: Stand, _: Worker) -> None:
    stand.process.kill()
    await stand.process.wait()


async def _start_proxy(stand: Stand) -> None:
    await stand.start()


FAULTS: Final = (
    Fault("worker: kill -9", _signal(signal.SIGKILL)),
    Fault("worker: SIGSTOP", _signal(signal.SIGSTOP)),
    Fault("worker: SIGTERM", _signal(signal.SIGTERM)),
    Fault("another model's worker exits while it loads", _exit_while_loading),
    Fault("worker: no memory", _no_memory),
    Fault("worker: socket removed", _unlink("server.sock")),
    Fault("worker: control socket removed", _unlink("control")),
    Fault("RPC server: kill -9", _kill_rpc, _restart_rpc),
    Fault("RPC server: SIGSTOP", _stop_rpc, _restart_rpc),
    Fault("garbage on the sockets", _garbage),
    Fault("disk full", _disk_full, _disk_has_room),
    Fault("proxy: kill -9", _kill_proxy, _start_proxy),
)
