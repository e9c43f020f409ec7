"""The machine under test: a GPU whose free memory is capped, or an RPC device in its place; and
what runs on it, the proxy and plain llama-server."""

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from bench.gpu.bigmodel import path_of
from bench.gpu.work import Settings, StepFailed
from proxy.engine.ports import free_port
from proxy.engine.types import Address
from proxy.memory.host import available_host_bytes
from proxy.placement.assign import placed
from proxy.pool.state import Backend
from tests.support.llama import child, program, rpc_server
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy

LOAD_S = 400.0
SETTLE_S = 300.0
MIB = 1 << 20


class Rig:
    """One capped device. Made by `rig`."""

    def __init__(self, settings: Settings, cap: int, rpc: str | None, rpc_pid: int | None) -> None:
        self.settings, self.cap = settings, cap
        self._rpc, self._rpc_pid = rpc, rpc_pid

    @property
    def model(self) -> Path:
        return path_of(self.settings)

    async def used_bytes(self) -> int:
        """Device memory in use, as nvidia-smi shows it (without a GPU: the RPC server's own)."""
        if self._rpc_pid is not None:
            status = await asyncio.to_thread(Path(f"/proc/{self._rpc_pid}/statm").read_text)
            return int(status.split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return await nvidia_smi("memory.used") * MIB

    @contextlib.asynccontextmanager
    async def proxy(self, **keys: object) -> AsyncIterator[tuple[Proxy, Backend]]:
        """A whole proxy under the cap, with the model loaded; `keys` are the model's."""
        settings = self.settings
        reserve = settings.reserve
        devices = {"reserve": reserve, "low": reserve // 2, "settle": f"{settings.settle_s}s"}
        capped = {"rpc": [self._rpc], "RPC0": {"limit": self.cap}} if self._rpc else {}
        m = {"path": self.model, "ctx": settings.ctx, "parallel": 1, "keep_alive": "1h"}
        m |= {"confine": settings.confine} | keys
        with tempfile.TemporaryDirectory(prefix="moe-") as folder:
            text = policies(
                {"m": m},
                catalog={"state": Path(folder, "state")},
                devices=devices | capped,
                engine={"libdir": settings.libdir, "threads": settings.threads},
            )
            async with proxy(Path(folder), text) as running:
                await running.post("/admin/models/m/load")
                (backend,) = running.app.services.pool.backends()
                if not backend.engine.live_moves:
                    raise StepFailed(f"no live moves here: {backend.engine.why_no_moves}")
                yield running, backend

    @contextlib.asynccontextmanager
    async def plain(self, *arguments: str) -> AsyncIterator[Address]:
        """llama-server itself, with the same context and threads. Raises StepFailed if it ends."""
        settings, port = self.settings, free_port()
        libdir = settings.libdir
        server = str(libdir / "llama-server") if libdir else program("llama-server")
        argv = [server, "-m", str(self.model), "--host", "127.0.0.1", "--port", str(port)]
        argv += ["-c", str(settings.ctx), "-np", "1", "--no-webui", *arguments]
        argv += ["--rpc", self._rpc] if self._rpc else []
        argv += ["-t", str(settings.threads)] if settings.threads else []
        env = {"LD_LIBRARY_PATH": str(libdir)} if libdir else {}
        async with child(*argv, **env) as process:
            address = Address(port=port)
            async with asyncio.timeout(LOAD_S), aiohttp.ClientSession() as session:
                while process.returncode is None:
                    with contextlib.suppress(aiohttp.ClientError):
                        async with session.get(f"{address.origin}/health") as answer:
                            if answer.status == 200:
                                break
                    await asyncio.sleep(0.1)
                else:
                    raise StepFailed(f"llama-server {' '.join(arguments)} ended while loading")
            yield address

    async def fitted(self, target_mib: str) -> str:
        """The arguments that --fit comes to, where llama.cpp's program that says so is there."""
        libdir = self.settings.libdir
        if libdir is None or not (libdir / "llama-fit-params").exists():
            return "its own"
        process = await asyncio.create_subprocess_exec(
            *(str(libdir / "llama-fit-params"), "-m", str(self.model)),
            *("-c", str(self.settings.ctx), "-np", "1", "--fit-target", target_mib),
            env=os.environ | {"LD_LIBRARY_PATH": str(libdir)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(LOAD_S):
            out, _ = await process.communicate()
        return out.decode().strip().rpartition("\n")[2] or "its own"

    def fit_target_mib(self) -> int:
        """What --fit is to leave free, so that it has as much to fill as the proxy has."""
        if self._rpc is None:
            return self.settings.reserve // MIB
        return max((available_host_bytes() or 0) - self.cap, 0) // MIB


@contextlib.asynccontextmanager
async def rig(settings: Settings, cap: int) -> AsyncIterator[Rig]:
    """A device with `cap` bytes free, for the length of the block."""
    if settings.cpu:
        # With a fixed threshold the C library gives what is freed back to the system at once.
        env = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        async with rpc_server(threads=settings.threads or 1, **env) as rpc:
            yield Rig(settings, cap, rpc, rpc.pid)
        return
    ballast = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.gpu.ballast", str(cap)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert ballast.stdin is not None
    assert ballast.stdout is not None
    try:
        said = await ballast.stdout.readline()
        if not said:
            raise StepFailed("the ballast could not be taken: no CUDA device?")
        print(f"  ballast: {said.decode().strip()}", flush=True)
        yield Rig(settings, cap, None, None)
    finally:
        ballast.stdin.close()
        await ballast.wait()


async def still(backend: Backend) -> int:
    """Wait until everything has moved and is repacked; returns moe_cpu_layers."""
    engine = backend.engine
    await engine.place(placed(engine.known()), settle_s=SETTLE_S)
    return engine.known().moe_cpu_layers


async def nvidia_smi(field: str) -> int:
    """One number of the first GPU. Raises StepFailed."""
    try:
        process = await asyncio.create_subprocess_exec(
            *("nvidia-smi", "--id=0", f"--query-gpu={field}", "--format=csv,noheader,nounits"),
            stdout=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError:
        raise StepFailed("no nvidia-smi: is there an NVIDIA GPU? (--cpu tries without)") from None
    out, _ = await process.communicate()
    if process.returncode:
        raise StepFailed(f"nvidia-smi failed: {out.decode().strip()}")
    return int(out.split()[0])
