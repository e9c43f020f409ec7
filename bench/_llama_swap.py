"""llama-swap as another side of `bench.passthrough`, where somebody has built it, with a plain
llama-server behind it, which is asked directly too: what it adds is over that one."""

import asyncio
import contextlib
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from bench._asking import ask, request
from bench._ways import START_S, Way, until_it_listens
from proxy.engine.ports import free_port
from tests.support.llama import program

END_S = 20.0
BEHIND = "straight to llama-swap's server"
NAME = "llama-swap, connection kept"


@contextlib.asynccontextmanager
async def through_llama_swap(
    swap: Path | None, path: Path, streams: int, threads: int
) -> AsyncIterator[tuple[Way, Way] | None]:
    """Straight to the server that it has started, and through it; None where it is not there."""
    if swap is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="ls") as folder:
        port, behind = free_port(), free_port()
        server = (
            *(program("llama-server"), "-m", str(path), "--host", "127.0.0.1", "--port", "${PORT}"),
            *("-c", str(512 * streams), "--parallel", str(streams), "--threads", str(threads)),
            *("--fit", "off", "--no-webui"),
        )
        # JSON is YAML.
        file = Path(folder, "config.yaml")
        model = {
            "cmd": " ".join(server),
            "proxy": "http://127.0.0.1:${PORT}",
            "concurrencyLimit": 2 * streams,  # by default it refuses more than ten at once
        }
        file.write_text(json.dumps({"startPort": behind, "models": {"bench": model}}))
        process = await asyncio.create_subprocess_exec(
            *(str(swap), "-config", str(file), "-listen", f"127.0.0.1:{port}"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        through = Way(NAME, port=port, keeps=True, pid=process.pid, over=BEHIND)
        try:
            async with asyncio.timeout(START_S):
                await until_it_listens(process, through)
                await ask(await through.connect(), request(1, "hi"))
            yield Way(BEHIND, port=behind), through
        finally:
            if process.returncode is None:
                process.terminate()  # it ends its server
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), END_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
