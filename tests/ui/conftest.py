"""A browser, and a proxy whose two models share a card with other programs."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.card import CardRig, card_rig
from tests.support.playwright import Browser, browser


@pytest.fixture
async def chromium(tmp_path: Path) -> AsyncIterator[Browser]:
    async with browser(tmp_path) as made:
        yield made


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[CardRig]:
    async with card_rig(tmp_path) as made:
        yield made
