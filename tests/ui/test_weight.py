"""What the page costs the browser: until something is seen, and while it is open for hours."""

import asyncio
from typing import Any

import pytest

from tests.support.card import MIB, CardRig
from tests.support.playwright import Browser, Page
from tests.ui.helpers import card

pytestmark = [pytest.mark.llama, pytest.mark.asyncio(loop_scope="module")]

HELD_BACK = """
  const asked = [];
  await page.route("**/*", (route) => {
    const path = new URL(route.request().url()).pathname;
    asked.push(path);
    if (["/ui/", "/ui/style.css"].includes(path)) route.continue(); // no other is ever answered
  });
  await page.goto(arg, { waitUntil: "commit" });
  await page.waitForFunction(
    () => performance.getEntriesByName("first-contentful-paint").length);
  const bytes = await page.evaluate(() => ["navigation", "resource"]
    .flatMap((kind) => performance.getEntriesByType(kind)).filter((one) => one.responseEnd)
    .map((one) => [new URL(one.name).pathname, one.decodedBodySize]));
  return { text: await page.locator("body").innerText(), bytes };
"""
HELD = """
  const session = await context.newCDPSession(page);
  await session.send("HeapProfiler.enable");
  await session.send("HeapProfiler.collectGarbage");
  await session.send("HeapProfiler.collectGarbage");
  await session.send("Performance.enable");
  const { metrics } = await session.send("Performance.getMetrics");
  await session.detach();
  return Object.fromEntries(metrics.map(({ name, value }) => [name, value]));
"""
STREAMS_ENDED = """
  return page.evaluate(() => performance.getEntriesByType("resource")
    .filter((one) => one.name.includes("/admin/events")).length);
"""
MOVE = {"backend": "b1", "model": "a", "why": "free", "from": 2, "to": 1, "layers": 1,
        "bytes": MIB, "staged_s": 0.1, "gate_s": 0.001}  # fmt: skip
REQUEST: Any = {"path": "/v1/completions", "model": "a", "backend": "b1", "key": None,
                "at": "2026-01-01T00:00:00+00:00", "state": "writing", "tokens": 0}  # fmt: skip
MOST_FIRST_BYTES = 20_000


async def test_the_first_paint_takes_two_small_files(rig: CardRig, chromium: Browser) -> None:
    """No script and no answer of the proxy is waited for: on loopback that is some milliseconds,
    which bench/open_pages.py measures."""
    page = await chromium.open("about:blank")

    seen = await page.do(HELD_BACK, f"{rig.proxy.url}/ui/")

    assert seen["text"].strip() == "moe-proxy"
    sizes = dict(seen["bytes"])
    assert sizes.keys() == {"/ui/", "/ui/style.css"}
    assert sum(sizes.values()) < MOST_FIRST_BYTES


async def test_it_does_not_grow_however_much_happens(rig: CardRig, chromium: Browser) -> None:
    """An hour: two moves a second, memory, and a request that comes, writes and goes."""
    page = await chromium.open(f"{rig.proxy.url}/ui/")
    await page.sees(f"{card('a')} .cell")
    await _happens(rig, page, 1200)
    before = await page.do(HELD)
    await _happens(rig, page, 3600)

    after = await page.do(HELD)
    assert after["Nodes"] <= before["Nodes"] * 1.1 + 100
    assert after["JSEventListeners"] <= before["JSEventListeners"] * 1.1 + 20
    # Code that was made faster takes some; the events of an hour would take twice as much.
    assert after["JSHeapUsedSize"] <= before["JSHeapUsedSize"] + 0.6 * MIB
    # It got all of it: who is too slow has to begin anew.
    assert await page.do(STREAMS_ENDED) == 0
    assert await page.said() == []


async def _happens(rig: CardRig, page: Page, seconds: int) -> None:
    events = rig.proxy.app.services.events
    (device,) = [d for d in (await rig.proxy.get("/admin/state"))["devices"] if d["name"] == "RPC0"]
    for second in range(seconds):
        number = f"r{second}"
        one = REQUEST | {"id": number}
        free = device["free_bytes"] - second * 4096
        events.tell("requests", patch={number: one})
        events.tell("memory", patch={"devices": {"RPC0": {"free_bytes": free}}})
        events.publish("moved", **MOVE)
        events.tell("requests", patch={number: {"tokens": second}})
        events.publish("moved", **MOVE)
        events.tell("requests", patch={number: None})
        if second % 10 == 9:  # a follower who does not keep up loses some
            await asyncio.sleep(0)
    last = events.publish("moved", **MOVE).at.isoformat()
    await page.sees(f'.moves time[datetime="{last}"]')
