"""The page in a real browser, on a real proxy with real workers."""

import asyncio
import itertools
import re

import aiohttp
import pytest

from proxy.observe.split_speeds import SplitSpeeds
from tests.hub import servers
from tests.support.card import LAYERS, MIB, RESERVE, CardRig
from tests.support.guard import until
from tests.support.models import model
from tests.support.playwright import Browser, Page
from tests.ui.conftest import DENSE, MODELS
from tests.ui.helpers import ENDLESS, SEND, card, go, places

pytestmark = [pytest.mark.llama, pytest.mark.asyncio(loop_scope="module")]

SET_SLIDER = """
  const slider = page.locator(arg.card).getByRole("slider");
  await slider.focus();
  for (let at = 0; at < arg.steps; at++) await page.keyboard.press("ArrowRight");
"""
WRITE = "await page.locator('.editor textarea').fill(arg)"
TEXT = "return page.locator('.editor textarea').inputValue()"
MODEL_COUNT = len(MODELS)


async def opened(rig: CardRig, chromium: Browser, part: str = "") -> Page:
    page = await chromium.open(f"{rig.proxy.url}/ui/{part}")
    await page.sees(f"{card('a')} .cell" if not part else "section")
    return page


async def test_what_is_there_and_what_it_holds(rig: CardRig, chromium: Browser) -> None:
    await rig.proxy.post("/admin/models/a/unload")
    rig.nvml.change(others=200 * MIB)
    page = await chromium.open(f"{rig.proxy.url}/ui/")
    await page.click('button[aria-label="Load a"]')
    await page.sees(f'{card("a")} .chip:has-text("ready")')
    await rig.all_of("a")

    await until(lambda: places(page, "a", "RPC0", LAYERS), "the map shows it")
    await page.sees('.device .legend:has-text("KV cache")')

    async def others() -> bool:  # 200 MiB, and what is rounded up of ours
        legend = await page.text(".device .legend")
        return re.search(r"other programs 20[0-3] MiB", legend) is not None

    await until(others, "what other programs have is shown")
    legend = await page.text(".device .legend")
    for kind in ("KV cache", "dense weights", "compute", "experts of a", "other programs",
                 "reserve", "free", "low mark"):  # fmt: skip
        assert kind in legend
    facts = await page.text(f"{card('a')} .facts")
    assert re.search(r"context\s+512 . 2", facts)
    assert "never" in facts  # its keep_alive
    assert await page.text("section:has(#models) h2 small") == f"1 of {MODEL_COUNT} loaded"
    await rig.ask("b")
    await page.sees('.device h3:has-text("on one card")')
    await page.sees('.legend:has-text("experts of b")')
    await page.click(f'{card("a")} button:has-text("Unload")')
    await page.sees('button[aria-label="Load a"]')
    await page.sees('.moves li:has-text("a is unloaded")')
    assert await page.said() == []


async def test_the_limit_is_marked(rig: CardRig, chromium: Browser) -> None:
    page = await opened(rig, chromium)
    await rig.proxy.apply(
        rig.text({}, {}).replace("[devices.RPC0]", '[devices.RPC0]\nlimit = "800MiB"')
    )

    await page.sees('.device .legend li:has-text("limit 800 MiB")')
    left = await page.do("return page.locator('.bar .mark.limit').getAttribute('style')")
    assert "78.125%" in left


async def test_a_split_is_changed_while_a_chat_streams(rig: CardRig, chromium: Browser) -> None:
    page = await opened(rig, chromium)
    await page.do(SEND)
    await page.sees(f'{card("a")} .chip:has-text("answering")')
    await page.sees(".request .progress:has-text('tokens')")

    await page.do(SET_SLIDER, {"card": card("a"), "steps": 5})

    await rig.proxy.until_ready(moe_cpu_layers=5, asked=5)
    await until(lambda: places(page, "a", "CPU", 5), "the map shows it")
    await page.sees(".message.assistant .mark:has-text('→ 5')")
    await page.sees('.moves li:has-text("5 layers on the CPU, you set it")')
    # Who looks elsewhere meanwhile finds the chat as it went on.
    await go(page, "logs", ".lines")
    await go(page, "", ".message.assistant .mark:has-text('→ 5')")
    await page.click(f'{card("a")} button:has-text("Auto")')
    await rig.all_of("a")
    await page.sees(f'{card("a")} button[aria-pressed=true]:has-text("Auto")')
    await page.click('.send button:has-text("Stop")')
    await page.sees("text=Nobody asks anything just now.")
    assert await page.said() == []


async def test_what_is_sent_before_a_model_is_known_goes_out_with_the_first(
    rig: CardRig, chromium: Browser
) -> None:
    page = await chromium.open("about:blank")
    await page.do(
        """
        let known;
        await page.route("**/v1/models", async (route) => {
          await new Promise((resolve) => (known = resolve));
          await route.continue();
        });
        await page.goto(arg.url);
        await page.getByLabel("What to ask").fill("tell me all");
        await page.keyboard.press("Enter");
        await page.locator(arg.cell).first().waitFor();
        await page.unroute("**/v1/models", { behavior: "ignoreErrors" });
        known();
        await page.locator(".message.assistant .text").waitFor();
        """,
        {"url": f"{rig.proxy.url}/ui/", "cell": f"{card('a')} .cell"},
    )
    await page.click('.send button:has-text("Stop")')


async def test_a_chat_is_offered_with_those_that_talk(rig: CardRig, chromium: Browser) -> None:
    page = await opened(rig, chromium)
    await page.sees('button[aria-label="Load embed"]')

    offered = await page.do("return page.locator('#chat-model option').allInnerTexts()")

    assert sorted(offered) == ["a", "b", "dense", "long"]


async def test_a_model_without_experts_has_its_own_words(rig: CardRig, chromium: Browser) -> None:
    page = await opened(rig, chromium)
    await page.click('button[aria-label="Load dense"]')
    await page.sees(f'{card("dense")} .facts:has-text("of it feed-forward weights")')
    await page.sees(f'{card("dense")} .chip:has-text("ready")')
    device = (await rig.proxy.backend("dense"))["layers"][0]["home"]
    await until(lambda: places(page, "dense", device, DENSE), "they are on the device")
    assert "Feed-forward weights on the CPU" in await page.text(f"{card('dense')} .split")
    assert "xperts" not in await page.text(card("dense"))
    await page.sees('.legend li:has-text("feed-forward weights of dense")')

    await page.do(SET_SLIDER, {"card": card("dense"), "steps": 2})

    await until(lambda: places(page, "dense", "CPU", 2), "two have moved")
    assert (await rig.proxy.backend("dense"))["moe_cpu_layers"] == 2
    assert await page.said() == []


async def test_what_other_splits_gave_and_would_give(rig: CardRig, chromium: Browser) -> None:
    (backend,) = rig.proxy.app.services.pool.backends()
    speeds = nothing_learned(rig)
    page = await with_other_splits(rig, chromium)
    await page.sees('.neighbours:has-text("moe-proxy bench a")')
    await page.sees('.neighbours:has-text("RPC0 4917 GB/s")')
    await page.sees('.neighbours tbody tr:has-text("at most; estimate")')
    bound = await rig.proxy.get(splits := f"/admin/backends/{backend.id}/splits")
    noted(speeds, 0, 40.0)
    one = await rig.proxy.get(splits)
    page = await with_other_splits(rig, chromium)
    await page.sees('.neighbours:has-text("made from N = 0, which was measured")')
    noted(speeds, 12, 10.0)
    table = await rig.proxy.get(splits)
    page = await with_other_splits(rig, chromium)
    await page.sees('.neighbours:has-text("a line through what was measured")')
    rows = await page.do(
        "return (await page.locator('.neighbours tbody tr').allInnerTexts())"
        ".map((row) => row.replace(/\\s+/g, ' '))"
    )

    assert {row["source"] for row in bound["splits"]} == {"bound"}
    at_most = [row["tokens_per_second"] for row in bound["splits"]]
    assert at_most == sorted(at_most, reverse=True)  # the card is faster than main memory
    assert [row["source"] for row in one["splits"]] == ["traffic", *["estimate"] * 12]
    from_one = [row["tokens_per_second"] for row in one["splits"]]
    # Each token takes as much longer as it would at most.
    assert from_one[0] == 40.0
    assert 1 / from_one[12] - 1 / 40 == pytest.approx(1 / at_most[12] - 1 / at_most[0], rel=0.02)
    assert (table["least"], table["auto"]) == (0, 0)
    assert [row["source"] for row in table["splits"]] == ["traffic", *["estimate"] * 11, "traffic"]
    assert table["splits"][6]["tokens_per_second"] == 16.0  # 1/16 is between 1/40 and 1/10
    assert rows[0].startswith("0 auto 153 MiB 40 measured in use")
    assert "estimate" in rows[1]
    await page.click('button[aria-label="Use 2 layers on the CPU"]')
    await rig.proxy.until_ready(moe_cpu_layers=2)


async def test_without_a_devices_speed_there_is_a_reason_and_no_number(
    rig: CardRig, chromium: Browser
) -> None:
    (backend,) = rig.proxy.app.services.pool.backends()
    text, mine = rig.text({}, {}), '[devices.RPC0]\nmemory = "{}"'
    assert mine.format("nvml:GPU-0") in text

    await rig.proxy.apply(text.replace(mine.format("nvml:GPU-0"), mine.format("ggml")))
    await until(
        lambda: rig.proxy.app.services.memory.latest().devices["RPC0"].source == "ggml",
        "it is read elsewhere",
    )
    nothing_learned(rig)
    table = await rig.proxy.get(f"/admin/backends/{backend.id}/splits")
    page = await with_other_splits(rig, chromium)

    assert table["estimate"] == {"basis": None, "why": "the speed of RPC0's memory is not known"}
    assert {row["source"] for row in table["splits"]} == {None}
    await page.sees('.neighbours:has-text("No estimate: the speed of RPC0")')


async def with_other_splits(rig: CardRig, chromium: Browser) -> Page:
    page = await opened(rig, chromium)
    await page.click("text=What other splits give")
    return page


def nothing_learned(rig: CardRig) -> SplitSpeeds:
    """Have all forgotten that earlier answers have shown; returns what notes new ones."""
    services = rig.proxy.app.services
    speeds = services.split_table._speeds  # type: ignore[attr-defined]
    speeds._lately, speeds._new = SplitSpeeds(), {}
    for file in services.policies.current.catalog.state.glob("bench/*.use.json"):
        file.unlink()
    return speeds._lately


def noted(speeds: SplitSpeeds, split: int, speed: float) -> None:
    """Answers were written at this speed."""
    speeds.note("a", split, speed)
    speeds.note("a", split, speed)


async def test_it_says_for_whom_a_model_has_shrunk(rig: CardRig, chromium: Browser) -> None:
    await rig.know("b")
    await rig.all_of("a")
    page = await opened(rig, chromium)
    # All but some of what b needs at least.
    free = await rig.at_rest()
    rig.nvml.change(others=free - RESERVE - 4 * MIB)
    await rig.at_rest()

    # Looked for from here on: on a slow machine b is soon the busier one, and gets more for that.
    seen = asyncio.ensure_future(page.sees(f'{card("a")} .chip:has-text("shrunk for b")'))
    await rig.ask("b")

    await seen
    assert "to make room for b" in await page.text(".moves")


async def test_it_says_that_other_programs_shrank_it(rig: CardRig, chromium: Browser) -> None:
    page = await opened(rig, chromium)
    rig.nvml.change(others=1024 * MIB - 110 * MIB)

    async def less() -> bool:
        return bool((await rig.proxy.backend("a"))["moe_cpu_layers"])

    await until(less, "other programs take the memory")
    await page.sees(f'{card("a")} .chip:has-text("shrunk for other programs")')
    assert "other programs needed the memory" in await page.text(".moves")


async def test_a_request_is_seen_and_cancelled(rig: CardRig, chromium: Browser) -> None:
    page = await opened(rig, chromium)
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


async def test_how_far_a_long_prompt_is_read_and_who_waits(rig: CardRig, chromium: Browser) -> None:
    """The model has one slot, for which two clients ask all the time: one reads, one waits."""
    await rig.proxy.post("/admin/models/long/load")
    page = await opened(rig, chromium)
    ended: set[int] = set()

    async def ask(client: str) -> None:
        for number in itertools.count():
            text = f"{client} {number} " + "the quick brown fox " * 1500
            # Of OpenAI's answers in one piece nobody knows how long the prompt is.
            body = {"model": "long", "prompt": text, "stream": False, "raw": True}
            body["options"] = {"num_predict": 1}
            async with rig.proxy.session.post("/api/generate", json=body) as answer:
                await answer.read()
                ended.add(answer.status)

    asking = [asyncio.create_task(ask(client)) for client in "xy"]
    try:
        await _reads_and_waits(page, ended)
    finally:  # whoever goes on asking would be in the way of the next tests
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    assert ended <= {200, 400}
    assert await page.said() == []


async def _reads_and_waits(page: Page, ended: set[int]) -> None:
    await page.sees('.request:has-text("long reads the prompt"):has(progress[aria-label="Prompt"])')
    read = '.request:has(progress[aria-label="Prompt"]) .progress .number'
    await page.do(
        "await page.locator(arg, { hasText: /^[0-9]+ of [0-9]{4} tokens read$/ }).waitFor()", read
    )
    await page.sees('.request:has-text("long waits for its turn, number 1")')
    await page.click('button[aria-label="Cancel the request to long"]')
    await until(lambda: 400 in ended, "one was told so")


async def test_two_pages_see_what_each_does(rig: CardRig, chromium: Browser) -> None:
    first, second = [await opened(rig, chromium) for _ in range(2)]

    await first.click(f'{card("a")} button:has-text("Pin")')
    await second.sees(f'{card("a")} .chip:has-text("pinned")')
    await second.do(SET_SLIDER, {"card": card("a"), "steps": 3})
    await until(lambda: places(first, "a", "CPU", 3), "the other page shows it")

    assert [await page.said() for page in (first, second)] == [[], []]


async def test_a_policy_pins(rig: CardRig, chromium: Browser) -> None:
    page = await opened(rig, chromium)
    await rig.proxy.apply(rig.text({}, {}).replace("[models.a]", "[models.a]\npinned = true"))
    await page.sees(f'{card("a")} .facts:has-text("its policy pins it")')

    await page.click(f'{card("a")} button:has-text("Pin")')
    await page.sees(f'{card("a")} button[aria-pressed=false]:has-text("Pin")')
    await page.click(f'{card("a")} button:has-text("Pin")')

    await page.sees(f'{card("a")} .facts:has-text("you pinned it")')


async def test_policies_are_edited(rig: CardRig, chromium: Browser) -> None:
    # Made at a start that has it for itself, which this is not.
    state = rig.proxy.app.services.policies.current.catalog.state
    await asyncio.to_thread(state.mkdir, parents=True, exist_ok=True)
    before = rig.proxy.policies.read_text()
    page = await opened(rig, chromium, "#policies")
    await page.sees(".editor textarea")

    bad = before.replace("[models.a]", '[models.a]\nmoe_cpu_layers = "lots"')
    await page.do(WRITE, bad)
    line = bad.splitlines().index('moe_cpu_layers = "lots"') + 1
    await page.sees(f'#problems:has-text("Line {line}") code:has-text("models.a.moe_cpu_layers")')
    assert await page.do("return page.locator('text=Save').first().isDisabled()")
    assert rig.proxy.policies.read_text() == before

    for change, fate in (("ctx = 256", "is loaded anew beside the old one (ctx)"),
                         ("pinned = true", "goes on, and takes this over (pinned)")):  # fmt: skip
        await page.do(WRITE, before.replace("[models.a]", f"[models.a]\n{change}"))
        await page.sees(f'.outcome li:has-text("a: {fate}")')
    good = before.replace("[models.a]", "[models.a]\nmoe_cpu_layers = 7")
    await page.do(WRITE, good)
    await page.sees('.outcome li:has-text("a: its experts move (moe_cpu_layers)")')
    # What is not saved stays while one looks elsewhere.
    await go(page, "", ".overview")
    await go(page, "policies", ".editor textarea")
    assert await page.do(TEXT) == good
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


async def test_what_somebody_else_saved_is_not_overwritten_unseen(
    rig: CardRig, chromium: Browser
) -> None:
    before = rig.proxy.policies.read_text()
    page = await opened(rig, chromium, "#policies")
    await page.sees(".editor textarea")
    await page.do(WRITE, f"{before}# mine\n")

    await rig.proxy.apply(f"{before}# theirs\n")

    await page.sees('#problems .warning:has-text("saved by somebody else meanwhile")')
    assert await page.do(TEXT) == f"{before}# mine\n"
    await page.click('button:has-text("Undo all")')
    assert await page.do(TEXT) == f"{before}# theirs\n"


async def test_a_file_that_somebody_broke_is_told_of(rig: CardRig, chromium: Browser) -> None:
    page = await opened(rig, chromium)

    rig.proxy.edit("[models.a]\nctx = 'long'\n")

    await page.sees('.warnings:has-text("policies.toml:2: models.a.ctx")')
    assert "The old policies stay." in await page.text(".warnings")
    await page.click('.warnings a:has-text("Mend it")')
    await page.sees('#problems:has-text("Line 2") code:has-text("models.a.ctx")')
    assert await page.do(TEXT) == "[models.a]\nctx = 'long'\n"


async def test_logs_by_model(rig: CardRig, chromium: Browser) -> None:
    await rig.ask("b")
    a, b = [(await rig.proxy.backend(name))["id"] for name in "ab"]
    page = await opened(rig, chromium, "#logs")
    await page.sees(f'.lines:has-text("{a}:")')

    await page.do("await page.locator('#log-model').selectOption('b')")

    await page.do("await page.locator('.lines', { hasNotText: arg }).waitFor()", f"{a}:")
    await page.sees(f'.lines:has-text("{b}:")')
    await page.do("await page.locator('#log-text').fill('no line has this')")
    await page.sees("text=Nothing was said yet.")
    assert await page.said() == []


async def test_a_model_is_pulled_with_progress(rig: CardRig, chromium: Browser) -> None:
    async with servers.serving() as registry:
        data = await asyncio.to_thread(model("qwen3moe", layers=2).read_bytes)
        registry.add_model("library/tiny:latest", [("model", data)], {"model_family": "qwen3moe"})
        registry.gate = asyncio.Event()
        name = f"{registry.host}/library/tiny"
        page = await opened(rig, chromium)
        await page.do("await page.getByLabel('Pull a model').fill(arg)", name)
        await page.click('.pull button:has-text("Pull")')
        await page.sees(f'.pulling:has-text("{name}: pulling")')
        await go(page, "logs", ".lines")
        await go(page, "", '.pulling .number:has-text("of")')

        registry.gate.set()

        await page.sees(f'.notices p:has-text("{name} is here.")')
        await page.sees(f'button[aria-label="Load {name}:latest"]')
        assert await page.said() == []
    async with rig.proxy.session.delete("/api/delete", json={"model": f"{name}:latest"}) as gone:
        assert gone.status == 200


async def test_a_pull_that_cannot_be_says_why(rig: CardRig, chromium: Browser) -> None:
    page = await opened(rig, chromium)
    await page.do("await page.getByLabel('Pull a model').fill('127.0.0.1:1/x/y:z')")
    await page.click('.pull button:has-text("Pull")')

    await page.sees(".notices .bad")
    assert await page.do("return page.locator('.pull button').first().isEnabled()")


async def test_nothing_can_be_written_before_the_file_is_there(
    rig: CardRig, chromium: Browser
) -> None:
    """It would be lost when the file comes."""
    page = await chromium.open("about:blank")
    written = await page.do(
        """
        let known;
        await page.route("**/admin/policies/*", async (route) => {
          await new Promise((resolve) => (known = resolve));
          await route.continue();
        });
        await page.goto(arg);
        const area = page.locator(".editor textarea");
        await area.waitFor();
        const writing = area.fill("[models.a]\\nctx = 'long'");  // waits until it can
        while (!known) await new Promise((resolve) => setTimeout(resolve, 10));
        await page.unroute("**/admin/policies/*", { behavior: "ignoreErrors" });
        known();
        await writing;
        await page.locator("#problems .bad").first().waitFor();
        return area.inputValue();
        """,
        f"{rig.proxy.url}/ui/#policies",
    )
    assert written == "[models.a]\nctx = 'long'"
