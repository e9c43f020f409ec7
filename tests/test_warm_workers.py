"""A worker waits for the next load, in a whole proxy: it comes, is used, is replaced, and goes."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.engine import installed
from proxy.engine.order import WAIT
from tests.support.guard import until
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy
from tests.support.serving import Serving, serving, until_gone, with_policies
from tests.test_killed import descendants

pytestmark = pytest.mark.llama

BODY = {"model": "m", "prompt": "hi", "max_tokens": 2}


def text(count: int = 1, **tables: Any) -> str:
    m = {"path": model(layers=4), "ctx": 512, "parallel": 1}
    return policies({"m": m}, server={"warm_workers": count}, **tables)


def waiting() -> list[int]:
    """The pids of those that this process has started to wait."""
    return [pid for pid in descendants(os.getpid()) if _waits(pid)]


def _waits(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return WAIT.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return False


async def one_waits(served: Proxy, *, but: int | None = None) -> int:
    """The pid of the only one that waits, once it does."""

    def found() -> list[int]:
        return [pid for pid in waiting() if pid != but and _ready(served)]

    return int((await until(found, "one waits"))[0])


def _ready(served: Proxy) -> int:
    return served.app.services.warm_workers.ready


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Proxy]:
    async with proxy(tmp_path, text()) as served:
        yield served
    assert not waiting(), "none outlives the proxy"


async def test_the_next_load_takes_it_and_another_one_comes(served: Proxy) -> None:
    pid = await one_waits(served)
    state = await served.get("/admin/state")
    assert state["warm_workers"] == {"wanted": 1, "ready": 1}

    await served.post("/v1/completions", BODY)
    assert (await served.backend("m"))["pid"] == pid

    assert await one_waits(served, but=pid) != pid


async def test_one_that_is_killed_is_replaced_and_no_model_is_to_blame(served: Proxy) -> None:
    pid = await one_waits(served)
    os.kill(pid, signal.SIGKILL)
    await served.post("/v1/completions", BODY)
    backend = await served.backend("m")
    assert (backend["last_error"], backend["failures"]) == (None, 0)
    assert backend["pid"] != pid
    assert await one_waits(served, but=backend["pid"]) != pid


async def test_it_follows_the_policies(served: Proxy, tmp_path: Path) -> None:
    """How many there are, and the libraries that they have loaded."""
    first = await one_waits(served)
    ours = installed.folder("lib")
    assert ours is not None
    shutil.copytree(ours, tmp_path / "lib", symlinks=True)

    served.edit(text(engine={"threads": 1, "libdir": str(tmp_path / "lib")}))
    second = await one_waits(served, but=first)
    await until_gone(first)
    maps = Path(f"/proc/{second}/maps").read_text()
    assert f"{tmp_path}/lib/libllama.so" in maps
    await served.post("/v1/completions", BODY)
    assert (await served.backend("m"))["pid"] == second

    served.edit(text(0, engine={"threads": 1, "libdir": str(tmp_path / "lib")}))
    await until(lambda: set(waiting()) <= {second}, "none waits any more")


def _interrupted(process: Serving) -> None:
    process.process.send_signal(signal.SIGINT)


def _killed(process: Serving) -> None:
    process.process.kill()


@pytest.mark.parametrize("end", [_interrupted, _killed])
async def test_it_goes_with_the_proxy(tmp_path: Path, end: Callable[[Serving], None]) -> None:
    async with serving(tmp_path, *with_policies(tmp_path, server={"warm_workers": 1})) as process:
        async with aiohttp.ClientSession(await process.url()) as session:

            async def ready() -> bool:
                async with session.get("/admin/state") as answer:
                    return bool((await answer.json())["warm_workers"]["ready"])

            await until(ready, "one waits")
        (pid,) = filter(_waits, descendants(process.pid))
        end(process)
        await asyncio.wait_for(process.ended(), 50)
        await until_gone(pid)
