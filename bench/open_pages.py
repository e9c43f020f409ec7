"""What open pages cost the proxy: the share of a core that it takes with N followers of its events
more than with none, idle, while an answer is written, and how soon the page has painted.

The proxy is a process of its own; its followers are connections that read everything, as the page
does (`/admin/events?state`). The first paint is Chromium's own measure, where that and Playwright
are here.

    python -m bench.open_pages [--pages N] [--seconds S] [--rounds N] [--check] [--json FILE]
"""

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from bench._options import amount, count, parsed, result_file
from bench._process import cpu_s
from bench._report import figure, table
from bench._tell import more_text, tell
from proxy.engine.ports import free_port
from tests.support.llama import rpc_server
from tests.support.models import model
from tests.support.policies import policies

MOST_SHARE = 0.02
MOST_PAINT_MS = 300.0
START_S = 60.0
LAYERS = 48
REST_S = 1.0  # what each page gets first is no part of it
HEAD = ("", "without pages, % of a core", "with them, %", "more, %", "kB/s a page")
PAINTED = ("something is painted", "all is shown")
BODY: Any = {"model": "moe", "prompt": "once", "ignore_eos": True, "stream": True}


@dataclass(frozen=True, slots=True)
class Seen:
    """While something goes on: shares of a core in turns, and kB/s of each page."""

    doing: str
    without: list[float]
    with_pages: list[float]
    rates: list[float]

    def row(self) -> list[str]:
        more = more_text(self.with_pages, self.without, 100, 2)
        shares = [figure(each).text(100, 2) for each in (self.without, self.with_pages)]
        return [self.doing, *shares, more, figure(self.rates).text(1, 2)]

    def more(self) -> float:
        pairs = zip(self.with_pages, self.without, strict=True)
        return figure([a - b for a, b in pairs]).median


@contextlib.asynccontextmanager
async def served(folder: Path) -> AsyncIterator[tuple[str, int]]:
    """The address of a proxy, and its process."""
    async with rpc_server() as device:
        # Of a usual number of layers, each of them as small as can be.
        small = {"width": 64, "expert_width": 32, "experts": 4}
        moe = {"path": model(layers=LAYERS, sizes=small), "ctx": 8192, "parallel": 1}
        text = policies({"moe": moe}, devices={"rpc": [device]}, defaults={"keep_alive": "-1"})
        (folder / "policies.toml").write_text(text)
        port = free_port()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "proxy.cli.main", "serve", "--port", str(port)),
            *("--policies", str(folder / "policies.toml")),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env=os.environ | {"HOME": str(folder)},
        )
        try:
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.terminate()
            await process.wait()


async def until_up(session: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(START_S):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.post("/admin/models/moe/load") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.1)


async def follow(session: aiohttp.ClientSession, received: list[int]) -> None:
    async with session.get("/admin/events?state&after=0") as stream:
        async for chunk in stream.content.iter_any():
            received[0] += len(chunk)


async def write(session: aiohttp.ClientSession) -> None:
    """Have answers written, one after the other."""
    while True:
        async with session.post("/v1/completions", json=BODY | {"max_tokens": 7000}) as answer:
            async for _ in answer.content.iter_any():
                pass


async def share(pid: int, seconds: float) -> float:
    before = cpu_s(pid)
    await asyncio.sleep(seconds)
    return (cpu_s(pid) - before) / seconds


async def measure(
    session: aiohttp.ClientSession, pid: int, pages: int, seconds: float, rounds: int
) -> list[Seen]:
    """With pages and without take turns, since an answer costs more at some times than others."""
    found = []
    for name in ("idle", "writing an answer"):
        writing = asyncio.create_task(write(session)) if name != "idle" else None
        seen = Seen(name, [], [], [])
        for _ in range(rounds):
            seen.without.append(await share(pid, seconds / rounds))
            received = [0]
            followers = [asyncio.create_task(follow(session, received)) for _ in range(pages)]
            await asyncio.sleep(REST_S)
            received[0] = 0
            seen.with_pages.append(await share(pid, seconds / rounds))
            seen.rates.append(received[0] / pages / (seconds / rounds) / 1000)
            await end(followers)
        if writing:
            await end([writing])
        found.append(seen)
    return found


async def end(tasks: list["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def first_paint_ms(url: str, folder: Path) -> list[list[float]]:
    """Until something is painted, and until the state is there, in ms, five times each."""
    from tests.support.playwright import browser

    async with browser(folder) as chromium:
        seen = []
        for _ in range(5):
            page = await chromium.open(f"{url}/ui/")
            await page.sees(".cell")
            seen.append(
                await page.do(
                    "return page.evaluate(() => ["
                    "performance.getEntriesByName('first-contentful-paint')[0].startTime,"
                    "performance.getEntriesByName('state-shown')[0].startTime])"
                )
            )
        return [list(column) for column in zip(*seen, strict=True)]


async def main(arguments: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="pages-") as name:
        folder = Path(name)
        async with (
            served(folder) as (url, pid),
            aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0)) as session,
        ):
            await until_up(session)
            found = await measure(
                session, pid, arguments.pages, arguments.seconds, arguments.rounds
            )
            try:
                paint = await first_paint_ms(url, folder)
            except BaseException as error:  # pytest's own for what is not here
                if type(error).__name__ not in ("Skipped",):
                    raise
                paint = []
    tables = [
        f"What {arguments.pages} open pages of a model with {LAYERS} layers cost the proxy.",
        table(HEAD, [each.row() for each in found]),
    ]
    if paint:
        rows = [[name, figure(ms).text()] for name, ms in zip(PAINTED, paint, strict=True)]
        tables += ["The page in Chromium.", table(("until", "ms"), rows)]
    results = {"pages": arguments.pages, "layers": LAYERS, "seen": found, "painted_ms": paint}
    tell({"open_pages": results}, *tables, file=arguments.json)
    most = max(each.more() for each in found)
    slow = bool(paint) and min(paint[0]) > MOST_PAINT_MS  # the best one, as others compute too
    return int(arguments.check and (most > MOST_SHARE or slow))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=count(), default=20)
    parser.add_argument("--seconds", type=amount(), default=20.0, help="of each, in all rounds")
    parser.add_argument("--rounds", type=count(), default=4)
    parser.add_argument("--json", type=result_file)
    parser.add_argument("--check", action="store_true", help="fail above 2 %% of a core or 300 ms")
    sys.exit(asyncio.run(main(parsed(parser))))
