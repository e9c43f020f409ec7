"""Chromium as a person has it in hand: Playwright's core from npm, kept between runs, on the
browser that is here."""

import asyncio
import contextlib
import fcntl
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.archive import cache_folder
from tests.support.browser import program
from tests.support.guard import HANG_S

PACKAGES: Final = ("playwright-core@1.65.1", "axe-core@4.14.1")
DRIVER: Final = Path(__file__).with_name("page_driver.mjs")
OPTIONS: Final = ("--disable-dev-shm-usage", "--disable-gpu")


def packages() -> Path:
    """A folder whose node_modules have them; skips the test where they cannot be had."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("there is no node with npm here")
    folder = cache_folder() / "-".join(["npm", *PACKAGES]).replace("@", "-")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several runs one installs
        if not (folder / "done").exists():
            install = (
                npm,
                "install",
                "--no-audit",
                "--no-fund",
                "--prefix",
                str(folder),
                *PACKAGES,
            )
            done = subprocess.run(install, capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"npm cannot install {PACKAGES}: {done.stderr[-300:]}")
            (folder / "done").touch()
    return folder


class Page:
    """One page, in a context of its own: it shares nothing with others."""

    def __init__(self, browser: "Browser", number: str) -> None:
        self._browser, self._number = browser, number

    async def do(self, code: str, arg: Any = None) -> Any:
        """Run the body of an async function of `page`, `context` (Playwright's), `axe` (the source
        of axe-core) and `arg`; returns what it returns. Playwright's own waiting has no limit, so
        this has."""
        async with asyncio.timeout(HANG_S):
            return await self._browser.ask({"page": self._number, "code": code, "arg": arg})

    async def sees(self, selector: str) -> None:
        """Wait until something that matches can be seen."""
        await self.do("await page.locator(arg).first().waitFor()", selector)

    async def click(self, selector: str) -> None:
        await self.do("await page.locator(arg).first().click()", selector)

    async def text(self, selector: str) -> str:
        return str(await self.do("return page.locator(arg).first().innerText()", selector))

    async def said(self) -> list[str]:
        """What is in its console, and was not asked for before."""
        return list(await self._browser.ask({"page": self._number, "said": True}))


class Browser:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        # What changes: who waits for which answer.
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}

    async def ask(self, what: dict[str, Any]) -> Any:
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, **what}).encode() + b"\n")
        return await answer

    async def open(self, url: str, **options: Any) -> Page:
        """A page at `url`; `options` as Playwright's newContext takes them."""
        async with asyncio.timeout(HANG_S):
            page = Page(self, await self.ask({"open": True, "options": options}))
            await page.do("await page.goto(arg)", url)
        return page

    async def close_pages(self) -> None:
        """Close all that were opened: what they still do takes time from others."""
        async with asyncio.timeout(HANG_S):
            await self.ask({"close": True})

    async def read(self) -> None:
        """Hand out answers as they come."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            answer = json.loads(line)
            future = self._asked.pop(answer["id"])
            if future.done():
                continue
            if "error" in answer:
                future.set_exception(AssertionError(answer["error"]))
            else:
                future.set_result(answer["value"])
        for future in self._asked.values():
            if not future.done():
                future.set_exception(AssertionError("the browser has ended"))


@contextlib.asynccontextmanager
async def browser(home: Path) -> AsyncIterator[Browser]:
    folder = packages()
    # What it imports is looked for beside it.
    driver = shutil.copyfile(DRIVER, folder / f"driver-{os.getpid()}.mjs")
    root = ("--no-sandbox",) if os.geteuid() == 0 else ()  # which it refuses to root
    process = await asyncio.create_subprocess_exec(
        *("node", str(driver), program(), *OPTIONS, *root),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"HOME": str(home)},
        limit=1 << 24,
        start_new_session=True,
    )
    made = Browser(process)
    reading = asyncio.create_task(made.read())
    try:
        yield made
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        await process.wait()
        await reading
        driver.unlink()
