"""What the faults are done to: a proxy as a process of its own, on a device, and clients that note
what they see."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from proxy.engine.ports import free_port
from tests.support.guard import HANG_S, until
from tests.support.llama import child, program
from tests.support.models import model
from tests.support.policies import policies

LAYERS = 12
PROMPT = "the quick brown fox jumps over the lazy dog and then"
LONG_PROMPT = [5 + i % 90 for i in range(2000)]
TOKENS = 12
STREAMED = 3000  # more than anybody waits for
# How long a worker may be silent before it is taken to hang; the policies' own is for real models.
HANG_TIMEOUT = "8s"
NO_ANSWER, HANGS = "the connection ends", "it hangs"


@dataclass(slots=True)
class Seen:
    """What one client saw of one request."""

    status: int | None = None
    text: str = ""
    error: str | None = None  # as the protocol's own error, or one of these two
    ended: bool = False  # with what ends a complete answer
    events: int = 0
    seconds: float = 0.0
    retry_after_s: float = 0.0

    @property
    def outcome(self) -> str:
        """In a few words."""
        if self.ended:
            return "the whole answer"
        if self.error in (NO_ANSWER, HANGS):
            return self.error
        where = "an error event" if self.events else f"error {self.status}"
        return where if self.error else "the connection ends in mid-answer"


class Rpc:
    """A device that can go and come back under the same address."""

    def __init__(self) -> None:
        self.port = free_port()
        self._stack = contextlib.AsyncExitStack()
        self.process: asyncio.subprocess.Process

    async def start(self) -> None:
        # Else SIGPIPE ends it where a worker is killed that it writes to, and the next load may be
        # sooner than its next start.
        deaf = ("sh", "-c", 'trap "" PIPE; exec "$@"', "sh")
        server = (program("ggml-rpc-server"), "-H", "127.0.0.1", "-p", str(self.port), "-t", "1")
        argv = (*deaf, *map(str, server))
        self.process = await self._stack.enter_async_context(child(*argv))

        async def listens() -> bool:
            assert self.process.returncode is None, "ggml-rpc-server ended"
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                return True
            return False

        await until(listens, "the RPC server listens")

    async def keep(self) -> None:
        """Start it anew whenever it has ended: it does where a worker is killed that is writing to
        it."""
        while True:
            await self.process.wait()
            await self.start()

    async def close(self) -> None:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGCONT)
        await self._stack.aclose()


class Stand:
    """The proxy's process, its device, and what can be asked of both."""

    def __init__(self, folder: Path, *, parallel: int) -> None:
        self.folder, self.rpc = folder, Rpc()
        path = model(layers=LAYERS, sizes={"experts": 32, "expert_width": 512})
        self._model: dict[str, object] = {"path": path, "moe_cpu_layers": "full"}
        self._model |= {"ctx": 8192, "parallel": parallel}
        self._device: dict[str, object] = {}
        self.port = free_port()
        self.process: asyncio.subprocess.Process
        self.session: aiohttp.ClientSession
        self.workers: set[int] = set()  # every one that was ever seen

    def _policies(self) -> str:
        broken = self.folder / "broken.gguf"
        if not broken.exists():
            broken.write_bytes(Path(str(self._model["path"])).read_bytes()[: 1 << 20])
        return policies(
            {"m": self._model, "broken": {"path": broken, "rpc": []}},
            devices={
                "rpc": [f"127.0.0.1:{self.rpc.port}"],
                "settle": "60s",
                "RPC0": self._device,
            },
            defaults={"hang_timeout": HANG_TIMEOUT},
        )

    def edit(self, **of_model: object) -> None:
        """Save the policies with these keys of the model changed, as editors do."""
        self._model |= of_model
        file = self.folder / "policies.toml"
        new = file.with_suffix(".new")
        new.write_text(self._policies())
        new.replace(file)

    def edit_device(self, **of_device: object) -> None:
        self._device |= of_device
        self.edit()

    async def start(self) -> None:
        """Start the proxy, and wait until it serves."""
        self.edit()
        with (self.folder / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "proxy.cli.main", "serve", "--port", str(self.port)),
                *("--policies", str(self.folder / "policies.toml"), "--log-format", "json"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"HOME": str(self.folder), "XDG_RUNTIME_DIR": str(self.folder)},
            )

        async def serves() -> bool:
            assert self.process.returncode is None, self.log()
            with contextlib.suppress(aiohttp.ClientError):
                async with self.session.get("/health") as answer:
                    return answer.status == 200
            return False

        await until(serves, "the proxy serves")

    def log(self) -> str:
        return (self.folder / "log").read_text()[-5000:]

    async def backends(self) -> list[dict[str, Any]]:
        """Those that have a process."""
        async with self.session.get("/admin/state") as answer:
            backends: list[dict[str, Any]] = (await answer.json())["backends"]
        found = [backend for backend in backends if backend["pid"]]
        self.workers |= {backend["pid"] for backend in found}
        return found

    async def worker(self, state: str = "ready") -> dict[str, Any]:
        """The only backend of the model, once it is in this state."""

        async def found() -> dict[str, Any] | None:
            backends = [b for b in await self.backends() if b["model"] == "m"]
            return backends[0] if [b["state"] for b in backends] == [state] else None

        return dict(await until(found, f"one worker, {state}", self._told))

    async def _told(self) -> str:
        return f"{await self.backends()}\n{self.log()}"

    def socket(self, backend: str, kind: str) -> Path:
        """A worker's socket; `kind` is "server.sock" or "control"."""
        (found,) = self.folder.glob(f"**/{backend}/{kind}")
        return found

    async def ask(self, **more: object) -> Seen:
        """One answer in one piece."""
        body = {"model": "m", "prompt": PROMPT, "n_predict": TOKENS, "temperature": 0}
        body |= {"cache_prompt": False, "ignore_eos": True}
        seen, started_s = Seen(), time.monotonic()
        try:
            async with self.session.post("/completion", json=body | more) as answer:
                seen.status = answer.status
                told = await answer.json()
                if answer.status == 200:
                    seen.text, seen.ended = told["content"], True
                else:
                    seen.error = told["error"]["message"]
                    seen.retry_after_s = float(answer.headers.get("Retry-After", 0))
        except TimeoutError:
            seen.error = HANGS
        except (aiohttp.ClientError, ConnectionError):
            seen.error = NO_ANSWER
        seen.seconds = time.monotonic() - started_s
        return seen

    async def stream(self, seen: Seen, **more: object) -> Seen:
        """One answer as it comes; `seen` is filled on the way."""
        body = {"model": "m", "prompt": PROMPT, "n_predict": STREAMED, "temperature": 0}
        body |= {"cache_prompt": False, "ignore_eos": True, "stream": True}
        try:
            async with self.session.post("/completion", json=body | more) as answer:
                seen.status = answer.status
                if answer.status != 200:
                    seen.error = (await answer.json())["error"]["message"]
                    return seen
                async for line in answer.content:
                    if not line.startswith(b"data:"):
                        continue
                    event = json.loads(line[5:])
                    if "error" in event:
                        seen.error = event["error"]["message"]
                        return seen
                    seen.events += 1
                    seen.text += event.get("content", "")
                    seen.ended = bool(event.get("stop"))
        except TimeoutError:
            seen.error = HANGS
        except (aiohttp.ClientError, ConnectionError):
            seen.error = seen.error or (None if seen.events else NO_ANSWER)
        return seen


def alive(pid: int) -> bool:
    """Whether a process is there that still could do something."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return re.sub(r".*\)", "", stat).split()[0] != "Z"


@contextlib.asynccontextmanager
async def stand(
    folder: Path, *, parallel: int = 1, patience_s: float = HANG_S
) -> AsyncIterator[Stand]:
    """A stand that serves. At its end every process is gone, whatever was done to it.
    `patience_s`: how long an answer may take until it is taken to hang."""
    it = Stand(folder, parallel=parallel)
    await it.rpc.start()
    timeout = aiohttp.ClientTimeout(total=patience_s)
    try:
        async with aiohttp.ClientSession(
            f"http://127.0.0.1:{it.port}", timeout=timeout
        ) as it.session:
            await it.start()
            yield it
    finally:
        if it.process.returncode is None:
            it.process.kill()
        await it.process.wait()
        await it.rpc.close()
