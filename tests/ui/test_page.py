"""The page in a real browser, on a real proxy with real workers."""

import asyncio
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.engine.ports import free_port
from tests.hub import servers
from tests.support.card import LAYERS, MIB, CardRig, card_rig
from tests.support.guard import until
from tests.support.models import model
from tests.support.playwright import Browser, Page
from tests.support.policies import policies
from tests.support.proxy import proxy

pytestmark = pytest.mark.llama

CARD = 'article[aria-label="{}"]'
ENDLESS: Any = {"prompt": "once upon", "ignore_eos": True, "max_tokens": 100_000, "stream": True}
SET_SLIDER = """
  const slider = page.locator(arg.card).getByRole("slider");
  await slider.focus();
  for (let at = 0; at < arg.steps; at++) await page.keyboard.press("ArrowRight");
"""
CELLS = """
  const cells = await page.locator(arg + " .cell").all();
  return Promise.all(cells.map((cell) => cell.getAttribute("data-place")));
"""
NO_SIDEWAYS = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"


def card(name: str) -> str:
    return CARD.format(name)


async def test_what_is_there_and_what_it_holds(rig: CardRig, chromium: Browser) -> None:
    rig.nvml.change(others=200 * MIB)
    page = await chromium.open(f"{rig.proxy.url}/ui/")
    await page.click('button:has-text("Load")[aria-label="Load a"]')
    await page.sees(f'{card("a")} .chip:has-text("ready")')
    await rig.all_of("a")

    await until(lambda: _places(page, "a", "RPC0", LAYERS), "the map shows it")
    await page.sees('.device .legend:has-text("KV cache")')
    legend = await page.text(".device .legend")
    for kind in ("KV cache", "dense weights", "compute", "experts of a", "other programs",
                 "reserve", "free", "low mark"):  # fmt: skip
        assert kind in legend
    assert re.search(r"other programs 20[01] MiB", legend)  # and what is rounded up of ours
    facts = await page.text(f"{card('a')} .facts")
    assert re.search(r"context\s+512 . 2", facts)
    assert "never" in facts  # its keep_alive
    assert await page.text("section:has(#models) h2 small") == "1 of 2 loaded"
    await rig.ask("b")
    await page.sees('.device h3:has-text("RPC0, RPC1 on one card")')
    await page.sees('.legend:has-text("experts of b")')
    await page.click(f'{card("a")} button:has-text("Unload")')
    await page.sees('button[aria-label="Load a"]')
    await page.sees('.moves li:has-text("a is gone: ended")')
    assert await page.said() == []


async def _places(page: Page, name: str, place: str, number: int) -> bool:
    return list(await page.do(CELLS, card(name))).count(place) == number


async def test_a_split_is_changed_while_a_chat_streams(rig: CardRig, chromium: Browser) -> None:
    await rig.ask("a")
    await rig.all_of("a")
    page = await chromium.open(f"{rig.proxy.url}/ui/")
    await page.do("await page.getByLabel('What to ask').fill('tell me all')")
    await page.do("await page.keyboard.press('Enter')")
    await page.sees(".message.assistant .text")
    await page.sees(f'{card("a")} .chip:has-text("answering")')
    await page.sees(".request .progress:has-text('tokens')")

    await page.do(SET_SLIDER, {"card": card("a"), "steps": 5})

    await rig.proxy.until_ready(moe_cpu_layers=5, asked=5)
    await until(lambda: _places(page, "a", "CPU", 5), "the map shows it")
    await page.sees(".message.assistant .mark:has-text('→ 5')")
    await page.sees('.moves li:has-text("5 layers on the CPU, you set it")')
    await page.click(f'{card("a")} button:has-text("Auto")')
    await rig.all_of("a")
    await page.sees(f'{card("a")} button[aria-pressed=true]:has-text("Auto")')
    await page.click('.send button:has-text("Stop")')
    await page.sees("text=Nobody asks anything just now.")
    assert await page.said() == []


async def test_what_other_splits_gave_and_would_give(rig: CardRig, chromium: Browser) -> None:
    await rig.ask("a")
    await rig.all_of("a")
    (backend,) = rig.proxy.app.services.pool.backends()
    speeds = rig.proxy.app.services.split_table._speeds  # type: ignore[attr-defined]
    for split, speed in ((0, 40.0), (12, 10.0)):
        speeds.note("a", split, speed)
        speeds.note("a", split, speed)

    table = await rig.proxy.get(f"/admin/backends/{backend.id}/splits")
    page = await chromium.open(f"{rig.proxy.url}/ui/")
    await page.click("text=What other splits give")
    rows = await page.do(
        "return (await page.locator('.neighbours tbody tr').allInnerTexts())"
        ".map((row) => row.replace(/\\s+/g, ' '))"
    )

    assert (table["least"], table["auto"]) == (0, 0)
    assert [row["source"] for row in table["splits"]] == ["traffic", *["estimate"] * 11, "traffic"]
    assert table["splits"][6]["tokens_per_second"] == 16.0  # 1/16 is between 1/40 and 1/10
    assert rows[0].startswith("0 auto 153 MiB 40 measured in use")
    assert "estimate" in rows[1]
    await page.click('button[aria-label="Use 2 layers on the CPU"]')
    await rig.proxy.until_ready(moe_cpu_layers=2)


async def test_it_says_for_whom_a_model_has_shrunk(tmp_path: Path, chromium: Browser) -> None:
    async with card_rig(tmp_path) as rig:
        await rig.know("a", "b")
        await rig.ask("a")
        page = await chromium.open(f"{rig.proxy.url}/ui/")
        before = (await rig.proxy.backend("a"))["moe_cpu_layers"]
        rig.nvml.change(others=1024 * MIB - 110 * MIB)

        async def less() -> bool:
            return bool((await rig.proxy.backend("a"))["moe_cpu_layers"] > before)

        await until(less, "other programs take the memory")
        await page.sees(f'{card("a")} .chip:has-text("shrunk for other programs")')
        assert "other programs needed the memory" in await page.text(".moves")


async def test_a_request_is_seen_and_cancelled(rig: CardRig, chromium: Browser) -> None:
    page = await chromium.open(f"{rig.proxy.url}/ui/")
    await page.sees("text=Nobody asks anything just now.")
    body = {"model": "a", **ENDLESS}
    said = bytearray()

    async def ask() -> None:
        async with rig.proxy.session.post("/v1/completions", json=body) as answer:
            async for chunk in answer.content.iter_any():
                said.extend(chunk)

    asking = asyncio.create_task(ask())
    await page.sees(".request:has-text('a writes')")
    await page.click('button[aria-label="Cancel the request to a"]')
    with pytest.raises(aiohttp.ClientPayloadError):  # half an answer is none
        await asking

    assert b'"code":"request_cancelled"' in said.rpartition(b"data: ")[2]
    await page.sees("text=Nobody asks anything just now.")
    await until(lambda: not rig.proxy.app.services.pool.backends()[0].in_flight, "it has ended")
    assert await page.said() == []


async def test_two_pages_see_what_each_does(rig: CardRig, chromium: Browser) -> None:
    await rig.ask("a")
    await rig.all_of("a")
    first, second = [await chromium.open(f"{rig.proxy.url}/ui/") for _ in range(2)]

    await first.click(f'{card("a")} button:has-text("Pin")')
    await second.sees(f'{card("a")} .chip:has-text("pinned")')
    await second.do(SET_SLIDER, {"card": card("a"), "steps": 3})
    await until(lambda: _places(first, "a", "CPU", 3), "the other page shows it")

    assert [await page.said() for page in (first, second)] == [[], []]


async def test_policies_are_edited(rig: CardRig, chromium: Browser) -> None:
    await rig.ask("a")
    await rig.all_of("a")
    # Made at a start that has it for itself, which this is not.
    state = rig.proxy.app.services.policies.current.catalog.state
    await asyncio.to_thread(state.mkdir, parents=True, exist_ok=True)
    before = rig.proxy.policies.read_text()
    page = await chromium.open(f"{rig.proxy.url}/ui/#policies")
    await page.sees(".editor textarea")
    write = "await page.locator('.editor textarea').fill(arg)"

    bad = before.replace("[models.a]", '[models.a]\nmoe_cpu_layers = "lots"')
    await page.do(write, bad)
    line = bad.splitlines().index('moe_cpu_layers = "lots"') + 1
    await page.sees(f'#problems:has-text("Line {line}") code:has-text("models.a.moe_cpu_layers")')
    assert await page.do("return page.locator('text=Save').first().isDisabled()")
    assert rig.proxy.policies.read_text() == before

    good = before.replace("[models.a]", "[models.a]\nmoe_cpu_layers = 7")
    await page.do(write, good)
    await page.sees('.outcome li:has-text("a: its experts move (moe_cpu_layers)")')
    await page.click('button:has-text("Save")')
    await rig.proxy.until_ready(moe_cpu_layers=7)
    assert rig.proxy.policies.read_text() == good

    await page.do("await page.locator('#versions option').nth(1).waitFor({ state: 'attached' })")
    await page.do("await page.locator('#versions').selectOption({ index: 1 })")
    await page.sees('.outcome li:has-text("a: its experts move")')
    await page.click('button:has-text("Save")')
    await rig.all_of("a")
    assert rig.proxy.policies.read_text() == before
    assert await page.said() == []


async def test_a_file_that_somebody_broke_is_told_of(rig: CardRig, chromium: Browser) -> None:
    page = await chromium.open(f"{rig.proxy.url}/ui/")
    await page.sees('button[aria-label="Load a"]')

    rig.proxy.edit("[models.a]\nctx = 'long'\n")

    await page.sees('.warnings:has-text("policies.toml:2: models.a.ctx")')
    assert "The old policies stay." in await page.text(".warnings")


async def test_logs_by_model(rig: CardRig, chromium: Browser) -> None:
    await rig.ask("a")
    await rig.ask("b")
    page = await chromium.open(f"{rig.proxy.url}/ui/#logs")
    await page.sees('.lines:has-text("b1:")')

    await page.do("await page.locator('#log-model').selectOption('b')")

    await page.sees('.lines:has-text("b2:")')
    lines = (await page.text(".lines")).splitlines()
    assert {line.partition(":")[0] for line in lines} == {"b2"}
    await page.do("await page.locator('#log-text').fill('no line has this')")
    await page.sees("text=Nothing was said yet.")
    assert await page.said() == []


async def test_a_model_is_pulled_with_progress(rig: CardRig, chromium: Browser) -> None:
    async with servers.serving() as registry:
        data = await asyncio.to_thread(model("qwen3moe", layers=2).read_bytes)
        registry.add_model("library/tiny:latest", [("model", data)], {"model_family": "qwen3moe"})
        registry.gate = asyncio.Event()
        name = f"{registry.host}/library/tiny"
        page = await chromium.open(f"{rig.proxy.url}/ui/")
        await page.do("await page.getByLabel('Pull a model').fill(arg)", name)
        await page.click('.pull button:has-text("Pull")')
        await page.sees(f'.pulling:has-text("{name}: pulling")')
        await page.sees('.pulling .number:has-text("of")')

        registry.gate.set()

        await page.sees(f'.notices p:has-text("{name} is here.")')
        await page.sees(f'button[aria-label="Load {name}:latest"]')
        assert await page.said() == []


async def test_a_pull_that_cannot_be_says_why(rig: CardRig, chromium: Browser) -> None:
    page = await chromium.open(f"{rig.proxy.url}/ui/")
    await page.do("await page.getByLabel('Pull a model').fill('127.0.0.1:1/x/y:z')")
    await page.click('.pull button:has-text("Pull")')

    await page.sees(".notices .bad")
    assert await page.do("return page.locator('.pull button').first().isEnabled()")


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
        await first.post("/admin/models/tiny/load")
        await page.sees(f'{card("tiny")} .chip:has-text("ready")')
    await page.sees('.phase:has-text("not connected")')
    await page.sees('.warnings:has-text("what you see is from before")')

    async with proxy(tmp_path, text, port=port):
        await page.sees('.phase:has-text("live")')
        await page.sees('button[aria-label="Load tiny"]')
        await page.sees('.moves li:only-child:has-text("The proxy has started")')


async def test_it_does_not_grow_however_much_happens(rig: CardRig, chromium: Browser) -> None:
    page = await chromium.open(f"{rig.proxy.url}/ui/")
    await page.sees("text=live")
    events = rig.proxy.app.services.events
    move = {"backend": "b1", "model": "a", "why": "free", "from": 2, "to": 1, "layers": 1,
            "bytes": MIB, "staged_s": 0.1, "gate_s": 0.001}  # fmt: skip

    async def burst(number: int) -> None:
        for _ in range(number // 100):
            for _ in range(100):
                events.publish("moved", **move)
            await asyncio.sleep(0)
        last = f'.moves time[datetime="{events.publish("moved", **move).at.isoformat()}"]'
        await page.sees(last)

    count = "return document.querySelectorAll('*').length"
    await burst(300)
    before = await page.do(count.replace("return ", "return page.evaluate(() => ") + ")")
    await burst(7200)  # two a second for an hour
    after = await page.do(count.replace("return ", "return page.evaluate(() => ") + ")")

    assert after <= before + 20
    assert await page.said() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_is_for_everybody_to_use(rig: CardRig, chromium: Browser, scheme: str) -> None:
    """axe-core finds nothing serious, and nothing is cut off on a phone."""
    await rig.ask("a")
    await rig.all_of("a")
    for size in ({"width": 1280, "height": 900}, {"width": 360, "height": 740}):
        page = await chromium.open(f"{rig.proxy.url}/ui/", viewport=size, colorScheme=scheme)
        await page.sees(f"{card('a')} .cell")
        await page.click("text=What other splits give")
        await page.sees(".neighbours tbody tr")
        for part in ("", "logs", "policies"):
            await page.do("await page.evaluate((part) => (location.hash = part), arg)", part)
            await page.sees({"": ".cell", "logs": ".lines", "policies": ".editor"}[part])
            found = await page.do(AXE)
            assert found == [], (part, size)
            assert await page.do(f"return page.evaluate(() => {{ {NO_SIDEWAYS} }})"), (part, size)


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


async def test_all_of_it_by_keyboard(rig: CardRig, chromium: Browser) -> None:
    await rig.ask("a")
    await rig.all_of("a")
    page = await chromium.open(f"{rig.proxy.url}/ui/")
    await page.sees(f"{card('a')} .cell")

    reached = await page.do("""
      const seen = [];
      for (let at = 0; at < 40; at++) {
        await page.keyboard.press("Tab");
        seen.push(await page.evaluate(() => {
          const one = document.activeElement;
          const outline = getComputedStyle(one).outlineStyle;
          if (one === document.body) return ["", true]; // the browser's own buttons
          return [one.textContent.trim() || one.id || one.tagName, outline !== "none"];
        }));
      }
      return seen;
    """)

    names = [name for name, _ in reached]
    for name in ("Skip to the content", "Overview", "Policies", "Pin", "Unload", "Auto", "Load"):
        assert name in names
    assert any(name.startswith("split-") for name in names)
    assert [name for name, visible in reached if not visible] == []
