"""A model without experts from outside: whole, or with feed-forward weights that move, by request
and by an edit of the policies."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy.pool.state import Backend
from tests.support.llama import rpc_server
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy

pytestmark = pytest.mark.llama

LAYERS = 6
BODY = {"model": "m", "prompt": "the quick brown fox", "max_tokens": 12, "temperature": 0}


class Rig:
    """A proxy on a device, with one model."""

    def __init__(self, rpc: str) -> None:
        self._rpc = rpc
        self.proxy: Proxy

    def text(self, **split: object) -> str:
        usual = {"path": model("qwen3", layers=LAYERS), "ctx": 512, "parallel": 2}
        usual |= {"keep_alive": "-1"}
        return policies({"m": usual | split}, devices={"rpc": [self._rpc]})

    async def ask(self, **more: object) -> str:
        result = await self.proxy.post("/v1/completions", BODY | more)
        return str(result["choices"][0]["text"])

    async def until(self, *, movable: bool, layers: int) -> dict[str, Any]:
        """The backend, once it is the only one and its weights are where they should be."""
        return await self.proxy.until_ready(live_moves=movable, moe_cpu_layers=layers)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rpc_server() as rpc:
        rig = Rig(rpc)
        async with proxy(tmp_path, rig.text()) as rig.proxy:
            yield rig


async def test_whole_then_movable_then_whole_again(rig: Rig) -> None:
    """Each of the two changes takes a new backend; the splits between them do not."""
    text = await rig.ask(moe_cpu_layers=3)
    whole = await rig.until(movable=False, layers=0)
    assert whole["layers"] == []
    assert "no experts" in whole["why_no_moves"]
    for path in (f"/admin/backends/{whole['id']}/split", "/admin/models/m/split"):
        refused = await rig.proxy.put(path, {"moe_cpu_layers": 3}, status=409)
        assert "no experts" in str(refused)
        assert "dense_cpu_layers" in str(refused)
    assert (await rig.proxy.get("/v1/models/m"))["meta"]["moe_cpu_layers"] is None

    rig.proxy.edit(rig.text(dense_cpu_layers="full"))
    movable = await rig.until(movable=True, layers=LAYERS)
    assert movable["pid"] != whole["pid"]
    assert (await rig.proxy.get("/v1/models/m"))["meta"]["moe_cpu_layers"] == -1
    await rig.proxy.put("/admin/models/m/split", {"moe_cpu_layers": 3})
    await rig.until(movable=True, layers=3)
    assert [x["index"] for x in movable["layers"]] == list(range(LAYERS))
    for n in (0, 4, 1):
        rig.proxy.edit(rig.text(dense_cpu_layers=n))
        assert (await rig.until(movable=True, layers=n))["pid"] == movable["pid"]
        assert await rig.ask() == text
    assert await rig.ask(moe_cpu_layers=5) == text
    await rig.until(movable=True, layers=5)

    rig.proxy.edit(rig.text(moe_cpu_layers=2))
    again = await rig.until(movable=False, layers=0)
    assert again["pid"] != movable["pid"]
    assert await rig.ask() == text


async def test_auto_brings_all_that_fits_to_the_device(rig: Rig) -> None:
    await rig.proxy.apply(rig.text(dense_cpu_layers="auto"))
    await rig.ask()
    on_device = await rig.until(movable=True, layers=0)
    size = sum(layer["experts_bytes"] for layer in on_device["layers"])

    assert on_device["bytes"]["RPC0"]["experts"] >= size > 0


async def test_an_edit_while_it_loads_is_not_lost(rig: Rig) -> None:
    edited = False

    async def edit(_: Backend) -> None:
        nonlocal edited
        if not edited:
            edited = True
            await rig.proxy.apply(rig.text(dense_cpu_layers="full"))

    rig.proxy.app.services.pool.hooks.subscribe(before_start=edit)
    await rig.ask()

    await rig.until(movable=True, layers=LAYERS)
