"""The pictures of the page in docs/, taken of a real proxy: `python -m tests.support.pictures`."""

import asyncio
import base64
import io
import tempfile
from pathlib import Path
from typing import Any, Final

from PIL import Image

from tests.support.card import MIB, SIZES, CardRig, card_rig
from tests.support.guard import until
from tests.support.models import model
from tests.support.parts import ROOT
from tests.support.playwright import Browser, Page, browser

NAME: Final = "qwen3:30b-a3b"
LAYERS: Final = 36
ASK: Final = """
  await page.getByLabel("What to ask").fill("Why is the sky blue?");
  await page.keyboard.press("Enter");
  await page.locator(".message.assistant .text").waitFor();
"""
SLIDE: Final = "await page.getByRole('slider').fill(String(arg))"
STOP: Final = "await page.locator('.send button').click()"
SHOT: Final = """
  await page.locator(".notices p").waitFor({ state: "detached" });
  return (await page.screenshot()).toString("base64");
"""


async def draw() -> None:
    models: dict[str, dict[str, Any]] = {
        NAME: {"path": model(layers=LAYERS, sizes=SIZES), "ctx": 4096},
        "gpt-oss:20b": {"path": model("gpt-oss", layers=24), "ctx": 8192},
        "nomic-embed-text": {"path": model("bert", layers=2)},
    }
    with tempfile.TemporaryDirectory() as folder:
        async with (
            card_rig(Path(folder), [NAME], models=models) as rig,
            browser(Path(folder)) as chromium,
        ):
            rig.nvml.change(others=230 * MIB)
            await rig.proxy.post(f"/admin/models/{NAME}/load")
            await rig.proxy.until_ready(moe_cpu_layers=0)
            await desktop(rig, chromium)
            await phone(rig, chromium)


async def desktop(rig: CardRig, chromium: Browser) -> None:
    page = await opened(rig, chromium, 1180, 860, "light")
    await page.do(ASK)
    await page.do("await page.waitForTimeout(4000)")
    await page.do(SLIDE, 20)
    await rig.proxy.until_ready(moe_cpu_layers=20)
    await page.do("await page.waitForTimeout(3000)")
    # Taken while the next ones move.
    await page.do(SLIDE, 9)
    await until(lambda: page.do("return page.locator('.cell.moving').count()"), "some move")
    await shoot(page, "page.png", wait=False)
    await page.do(STOP)


async def phone(rig: CardRig, chromium: Browser) -> None:
    await rig.proxy.until_ready(moe_cpu_layers=9)
    page = await opened(rig, chromium, 360, 740, "dark")
    await page.do("await page.locator('summary:has-text(\"What other\")').click()")
    await page.do("await page.locator('.devices').evaluate((one) => scrollTo(0, one.offsetHeight))")
    await shoot(page, "page-phone.png", wait=True)


async def opened(rig: CardRig, chromium: Browser, width: int, height: int, scheme: str) -> Page:
    size = {"width": width, "height": height}
    page = await chromium.open(f"{rig.proxy.url}/ui/", viewport=size, colorScheme=scheme)
    await page.sees(".cell")
    return page


async def shoot(page: Page, name: str, *, wait: bool) -> None:
    picture = await page.do(SHOT if wait else SHOT.replace("await page.locator", "// "))
    image = Image.open(io.BytesIO(base64.b64decode(picture)))
    # Few colours are enough, and a fraction of the size.
    colours = image.convert("RGB").quantize(
        256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
    )
    colours.save(ROOT / "docs" / name, optimize=True)


if __name__ == "__main__":
    asyncio.run(draw())
