"""The page for everybody: by keyboard, on a phone, in light and dark, with a screen reader."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.support.card import CardRig
from tests.support.guard import until
from tests.support.playwright import Browser
from tests.support.policies import policies
from tests.support.proxy import proxy
from tests.ui.helpers import DESKTOP, PHONE, SEND, card, fits, go

pytestmark = [pytest.mark.llama, pytest.mark.asyncio(loop_scope="module")]

# Presses Tab until what has the focus is called so; what has it is to be seen all the way.
TAB = """
  for (let at = 0; at < 150; at++) {
    await page.keyboard.press("Tab");
    const [name, visible] = await page.evaluate(() => {
      const one = document.activeElement;
      const outlined = one === document.body || getComputedStyle(one).outlineStyle !== "none"
        || getComputedStyle(one.parentElement).outlineStyle !== "none";
      const label = one.getAttribute("aria-label") ?? one.labels?.[0]?.textContent;
      return [(label ?? one.textContent).trim(), outlined];
    });
    if (!visible) throw new Error(`nobody sees that ${name} has the focus`);
    if (name === arg) return;
  }
  throw new Error(`no Tab leads to ${arg}`);
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_nothing_serious_in_any_part(rig: CardRig, chromium: Browser, scheme: str) -> None:
    """axe-core finds nothing serious, and nothing is cut off on a phone."""
    await rig.proxy.post("/admin/models/dense/load")
    for size in (DESKTOP, PHONE):
        page = await chromium.open(f"{rig.proxy.url}/ui/", viewport=size, colorScheme=scheme)
        await page.sees(f"{card('a')} .cell")
        await page.click("text=What other splits give")
        await page.sees(".neighbours tbody tr")
        await page.do(SEND)
        await page.sees(".request .progress")
        await fits(page, size)
        await page.click('.send button:has-text("Stop")')
        await go(page, "logs", ".lines")
        await fits(page, ("logs", size))
        await go(page, "policies", ".editor")
        text = 'await page.locator(".editor textarea").fill(arg)'
        await page.do(text, "[models.a]\nctx = 'long'")
        await page.sees("#problems .bad")
        await fits(page, ("policies", size))


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_nothing_serious_before_the_login(
    tmp_path: Path, chromium: Browser, scheme: str
) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("sk-admin admin me\n")
    keys.chmod(0o600)
    text = policies({}, server={"api_keys_file": str(keys)})
    async with proxy(tmp_path, text) as server:
        page = await chromium.open(f"{server.url}/ui/", viewport=PHONE, colorScheme=scheme)
        await page.sees('label:has-text("API key")')
        await page.do("await page.keyboard.type('wrong'); await page.keyboard.press('Enter')")
        await page.sees("#why:not(:empty)")
        await fits(page, "login")


async def test_each_deed_by_keyboard(rig: CardRig, chromium: Browser) -> None:
    page = await chromium.open(f"{rig.proxy.url}/ui/")
    await page.sees(f"{card('a')} .cell")

    async def press(name: str, *keys: str) -> None:
        """Go there by Tab, then press these."""
        await page.do(TAB, name)
        for key in keys:
            await page.do("await page.keyboard.press(arg)", key)

    await press("Skip to the content", "Enter")
    await press("Pin", "Enter")
    await page.sees(f'{card("a")} .chip:has-text("pinned")')
    await press("Experts on the CPU", *["ArrowRight"] * 3)
    await rig.proxy.until_ready(moe_cpu_layers=3, asked=3)
    await press("What other splits give", "Enter")
    await page.sees(".neighbours tbody tr")
    await press("Use 4 layers on the CPU", "Space")
    await rig.proxy.until_ready(moe_cpu_layers=4, asked=4)
    await press("Auto", "Space")
    await rig.all_of("a")
    await press("Load b", "Enter")
    await page.sees(f'{card("b")} .chip:has-text("ready")')
    await press("What to ask")
    await page.do("await page.keyboard.type('tell me all'); await page.keyboard.press('Enter')")
    await page.sees(".message.assistant .text")
    await press("Stop", "Enter")
    await page.sees("text=Nobody asks anything just now.")
    asking = asyncio.create_task(_ask(rig, {"model": "b", "max_tokens": 100_000}))
    await page.sees(".request:has-text('b writes')")
    await press("Cancel the request to b", "Enter")
    assert await asking == 400
    await press("Logs", "Enter")
    await page.sees(".lines")
    await press("with", "x")
    await press("Policies", "Enter")
    await page.sees(".editor textarea")
    await press("Text of " + str(rig.proxy.policies), "Control+End")
    await page.do("await page.keyboard.type('\\n[models.x]\\nctx = 99\\n')")
    await page.sees('.outcome li:has-text("for the next load of x")')
    await press("Save", "Enter")
    await until(lambda: "[models.x]" in rig.proxy.policies.read_text(), "it is saved")
    await press("Overview", "Enter")
    await press("Unload", "Enter")
    await page.sees('button[aria-label="Load a"]')
    assert await page.said() == []


async def _ask(rig: CardRig, body: dict[str, Any]) -> int:
    more = {"prompt": "once upon", "ignore_eos": True}
    async with rig.proxy.session.post("/v1/completions", json=body | more) as answer:
        await answer.read()
        return answer.status
