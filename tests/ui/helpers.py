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

NO_SIDEWAYS = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
AXE = """
  // The page's own policy lets no script in but its own, and so this comes by the debugger.
  const session = await context.newCDPSession(page);
  await session.send("Runtime.evaluate", { expression: axe });
  const { result } = await session.send("Runtime.evaluate", {
    expression: `axe.run().then((found) => JSON.stringify(found.violations
      .filter((one) => ["serious", "critical"].includes(one.impact))
      .map((one) => [one.id, one.nodes.map((node) => [node.html, node.failureSummary])])))`,
    awaitPromise: true, returnByValue: true,
  });
  await session.detach();
  return JSON.parse(result.value);
"""
PHONE, DESKTOP = {"width": 360, "height": 740}, {"width": 1280, "height": 900}


def card(name: str) -> str:
    return f'article[aria-label="{name}"]'


async def places(page: Page, name: str, place: str, number: int) -> bool:
    """Whether so many cells of a model's map are of this place."""
    return list(await page.do(CELLS, card(name))).count(place) == number


async def go(page: Page, part: str, sees: str) -> None:
    """To another part of the page."""
    await page.do("await page.evaluate((part) => (location.hash = part), arg)", part)
    await page.sees(sees)


async def fits(page: Page, where: object) -> None:
    assert await page.do(AXE) == [], where
    assert await page.do(f"return page.evaluate(() => {{ {NO_SIDEWAYS} }})"), where
