"""For how long a node is waited for that does what it was asked."""

import asyncio
from dataclasses import dataclass

import pytest

from proxy.fleet.front.views import asking


@dataclass
class Node:
    answers: bool


class Nodes:
    async def until_news(self) -> None:
        await asyncio.sleep(0.001)


async def waited_for(*, answers: bool) -> None:
    """Until a node has done what takes ten times as long as it may be silent."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as limit:
        watch = loop.create_task(asking.until_gone(Nodes(), Node(answers), limit))
        try:
            await asyncio.sleep(10 * asking.GONE_S)
        finally:
            watch.cancel()


async def test_one_that_answers_may_take_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "GONE_S", 0.02)
    await waited_for(answers=True)


async def test_one_that_is_silent_is_waited_for_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "GONE_S", 0.02)
    with pytest.raises(TimeoutError):
        await waited_for(answers=False)
