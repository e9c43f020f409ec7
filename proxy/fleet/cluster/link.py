"""A supervisor's way to the directory: it asks until it is answered, and tells what it knows where
the directory has begun again."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import structlog

from proxy.fleet.cluster import machines
from proxy.fleet.cluster.directory import News, Report

log = structlog.get_logger()

WITHIN_S: Final = 30.0
AGAIN_S: Final = 0.3


class Link:
    """`news` is what it has heard last."""

    def __init__(self) -> None:
        self._directory: Any = None
        # What changes:
        self.news: News | None = None
        self._told: str | None = None  # the life that knows what we know

    async def ask(self, method: str, *arguments: object, within_s: float = WITHIN_S) -> Any:
        """What the directory says; waits for it, however long it takes to be there."""
        failed = False
        while True:
            try:
                return await self._ask(method, *arguments, within_s=within_s)
            except Exception as error:  # Ray has many of its own for this
                if not failed:
                    log.warning("fleet_directory_silent", asked=method, reason=repr(error)[:300])
                failed = True
                self._directory = None
            await asyncio.sleep(AGAIN_S)

    async def follow(self) -> AsyncIterator[News]:
        """Each time that there is something new."""
        while True:
            after, life = (self.news.version, self.news.life) if self.news else (-1, None)
            news: News | None = await self.ask("news", after, life)
            if news is not None:
                self.news = news
                yield news

    async def seeded(self) -> None:
        """Returns once the fleet has policies."""
        async for news in self.follow():
            if news.memory.policies is not None:
                return

    async def tell(self, report: Report, *, within_s: float = WITHIN_S) -> None:
        """Each second; raises what Ray raises."""
        life = await self._ask("tell", report, within_s=within_s)
        if self.news is not None and life not in (self.news.life, self._told):
            await self._ask("remind", self.news.memory, within_s=within_s)
            log.warning("fleet_directory_reminded", life=life)
            self._told = life

    async def _ask(self, method: str, *arguments: object, within_s: float) -> Any:
        if self._directory is None:
            self._directory = await asyncio.to_thread(machines.directory)
        called = getattr(self._directory, method).remote(*arguments)
        return await asyncio.wait_for(called, within_s)
