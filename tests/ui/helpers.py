"""What tests of the page say of it."""

from typing import Any

from tests.support.playwright import Page

ENDLESS: Any = {"prompt": "once upon", "ignore_eos": True, "max_tokens": 100_000, "stream": True}
SEND: Any = """
  await page.getByLabel("What to ask").fill("tell me all");
  await page.keyboard.press("Enter");
  await page.locator(".message.assistant .text").waitFor();
"""
CELLS = """
  const cells = await page.locator(arg + " .cell").all();
  return Promise.all(cells.map((cell) => cell.getAttribute("data-place")));
"""


def card(name: str) -> str:
    return f'article[aria-label="{name}"]'


async def places(page: Page, name: str, place: str, number: int) -> bool:
    """Whether so many cells of a model's map are of this place."""
    return list(await page.do(CELLS, card(name))).count(place) == number


async def go(page: Page, part: str, sees: str) -> None:
    """To another part of the page."""
    await page.do("await page.evaluate((part) => (location.hash = part), arg)", part)
    await page.sees(sees)
