"""Plain llama-server as another side: started and ended as often as it takes, asked as soon as it
is ready; and answers as they come, of it or of a proxy."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from proxy.engine.ports import free_port
from tests.support.llama import child, program

READY_S, END_S = 600.0, 20.0
POLL_S = 0.002
FOREVER = aiohttp.ClientTimeout(total=None)


@dataclass(frozen=True, slots=True)
class Token:
    """One piece of an answer and when it came; the last one has llama-server's own counts."""

    at_s: float
    timings: dict[str, Any] | None


@contextlib.asynccontextmanager
async def llama_server(path: Path, *arguments: str) -> AsyncIterator[str]:
    """Its address, once it takes requests. In the end it is told to end, and waited for: an RPC
    server whose client is killed in the middle of a step ends with it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    argv = (program("llama-server"), "-m", str(path), "--host", "127.0.0.1", "--port", str(port))
    async with child(*argv, "--no-webui", "--fit", "off", *arguments) as process:
        async with asyncio.timeout(READY_S), aiohttp.ClientSession(url) as session:
            while True:
                if process.returncode is not None:
                    raise SystemExit(f"llama-server ended with status {process.returncode}")
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get("/health") as answer:
                        if answer.status == 200:
                            break
                await asyncio.sleep(POLL_S)
        try:
            yield url
        finally:
            if process.returncode is None:
                process.terminate()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(END_S):
                        await process.wait()


async def answered(url: str, model: str, prompt: str, tokens: int) -> AsyncIterator[Token]:
    """The tokens of one streamed answer, each as it comes."""
    body = {"model": model, "prompt": prompt, "max_tokens": tokens, "stream": True}
    body |= {"temperature": 0, "ignore_eos": True}
    async with (
        aiohttp.ClientSession(url, timeout=FOREVER) as session,
        session.post("/v1/completions", json=body) as answer,
    ):
        if answer.status != 200:
            raise SystemExit(await answer.text())
        async for line in answer.content:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                yield Token(time.perf_counter(), event.get("timings"))


async def first_token_s(url: str, model: str, prompt: str, tokens: int) -> tuple[float, float]:
    """Seconds to the first token of an answer, and to its last one."""
    started = time.perf_counter()
    seen = [token.at_s - started async for token in answered(url, model, prompt, tokens)]
    return seen[0], seen[-1]
