"""The page and what may happen to its proxy, in a real browser: keys, an end, a new start."""

from pathlib import Path

import pytest

from proxy.engine.ports import free_port
from tests.support.models import model
from tests.support.playwright import Browser
from tests.support.policies import policies
from tests.support.proxy import proxy
from tests.ui.helpers import card

pytestmark = [pytest.mark.llama, pytest.mark.asyncio(loop_scope="module")]


async def test_with_keys_it_shows_nothing_before_one_is_given(
    tmp_path: Path, chromium: Browser
) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("sk-admin admin me\nsk-use use anna\n")
    keys.chmod(0o600)
    text = policies({"tiny": {"path": model(layers=4)}}, server={"api_keys_file": str(keys)})
    async with proxy(tmp_path, text) as server:
        page = await chromium.open(f"{server.url}/ui/")
        await page.sees('label:has-text("API key")')
        assert "tiny" not in await page.do("return page.content()")
        asked = await page.do(
            "return page.evaluate(() => performance.getEntriesByType('resource')"
            ".map((one) => new URL(one.name).pathname))"
        )
        assert [path for path in asked if not path.startswith("/ui/")] == []
        assert await page.said() == []

        login = "await page.getByLabel('API key').fill(arg); await page.keyboard.press('Enter')"
        await page.do(login, "sk-wrong")
        await page.sees("text=this API key is not known")
        await page.do(login, "sk-use")
        await page.sees('button[aria-label="Load tiny"]')
        await page.said()
        await page.click('button[aria-label="Load tiny"]')
        await page.sees('.notices .bad:has-text("may use models, not change the machine")')
        await page.click("text=Log out")
        await page.do(login, "sk-admin")
        await page.click('button[aria-label="Load tiny"]')
        await page.sees(f'{card("tiny")} .chip:has-text("ready")')


async def test_it_goes_on_with_a_proxy_that_was_started_again(
    tmp_path: Path, chromium: Browser
) -> None:
    port, text = free_port(), policies({"tiny": {"path": model(layers=4), "ctx": 512}})
    async with proxy(tmp_path, text, port=port) as first:
        page = await chromium.open(f"{first.url}/ui/")
        logs = await chromium.open(f"{first.url}/ui/#logs")
        await first.post("/admin/models/tiny/load")
        await page.sees(f'{card("tiny")} .chip:has-text("ready")')
        await logs.sees('.lines:has-text("b1:")')
    await page.sees('.phase:has-text("not connected")')
    await page.sees('.warnings:has-text("what you see is from before")')
    await logs.sees('.logs .bad:has-text("It is tried again")')
    await logs.sees('.lines:has-text("b1:")')

    async with proxy(tmp_path, text, port=port) as second:
        await page.sees('.phase:has-text("live")')
        await page.sees('button[aria-label="Load tiny"]')
        await page.sees('.moves li:only-child:has-text("The proxy has started")')
        await logs.sees('.lines:has-text("Nothing was said yet.")')
        await second.post("/admin/models/tiny/load")
        await logs.sees('.lines:has-text("b1:")')
        assert not await logs.do("return page.locator('.logs .bad').count()")
