"""llama.cpp's expert cache from a policy to the device, with a stand-in for a build that has one:
how large it is, what moves beside it, and what becomes of it where memory is short."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from proxy.control.speed_curve import CachePoint, Curve, Point
from proxy.control.speed_store import device_ids, engine_id, model_id, save
from proxy.engine.types import CPU
from proxy.pool.state import BackendState
from tests.support.cache_build import cache_build
from tests.support.control import desired_of
from tests.support.guard import until
from tests.support.llama import rpc_server
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy

pytestmark = [pytest.mark.llama, pytest.mark.asyncio(loop_scope="module")]

LAYERS, DEVICE, MIB = 12, "RPC0", 1 << 20
BODY = {"model": "m", "prompt": "the quick brown fox", "max_tokens": 8, "temperature": 0}


@dataclass
class Rig:
    """A proxy with one device, of which so much is ours, and one model."""

    served: Proxy
    rpc: str
    folder: Path
    limit: str = "40MiB"
    settle: str = "0s"
    of_model: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        m = {"path": model(layers=LAYERS), "ctx": 512, "parallel": 1, "repack": "off"}
        devices = {"rpc": [self.rpc], "settle": self.settle, DEVICE: {"limit": self.limit}}
        catalog = {"state": self.folder / "state"}
        engine = {"libdir": cache_build()}
        return policies({"m": m | self.of_model}, devices=devices, catalog=catalog, engine=engine)

    async def loaded(self, **of_model: Any) -> dict[str, Any]:
        """It, loaded anew with this in its policy, once its experts are where they are to be."""
        await self.served.post("/admin/models/m/unload")
        self.limit, self.of_model = "40MiB", of_model
        if self.text() != self.served.policies.read_text():
            await self.served.apply(self.text())
        await self.served.post("/admin/models/m/load")
        return await self.at_rest()

    async def at_rest(self) -> dict[str, Any]:
        """Once nothing more has a reason to move."""
        services = self.served.app.services
        (loaded,) = [b for b in services.pool.backends() if b.state is BackendState.READY]

        async def still() -> bool:
            state = desired_of(services).get(loaded)
            if state is None or not state.devices_known.is_set() or state.migration.moving:
                return False
            table = await services.split_table.of(loaded)
            return bool(table["auto"] in (None, loaded.engine.known().moe_cpu_layers))

        await until(still, "all is where it is to be")
        return await self.served.backend("m")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    folder = tmp_path_factory.mktemp("cache")
    async with rpc_server() as rpc:
        rig = Rig(None, rpc, folder)  # type: ignore[arg-type]
        async with proxy(folder, rig.text()) as rig.served:
            await rig.loaded()  # from now on its device is known
            yield rig


async def ask(rig: Rig, **more: Any) -> str:
    return str((await rig.served.post("/v1/completions", BODY | more))["choices"][0]["text"])


async def test_some_layers_are_whole_and_move_and_the_rest_is_cached(rig: Rig) -> None:
    text = await ask(rig)
    assert (await rig.served.backend("m"))["cached_layers"] == []

    backend = await rig.loaded(moe_cache="8MiB")

    cached = backend["cached_layers"]
    assert cached == [*range(len(cached))]
    assert 0 < len(cached) < LAYERS
    assert [layer["index"] for layer in backend["layers"]] == [*range(len(cached), LAYERS)]
    # As planned, but for what a layer's scratch memory may take more.
    on_device = [layer["index"] for layer in backend["layers"] if layer["experts"] == DEVICE]
    assert on_device == [*range(backend["moe_cpu_layers"], LAYERS)]
    assert len(cached) <= backend["moe_cpu_layers"] <= len(cached) + 1
    held = backend["bytes"][DEVICE]
    assert held["cache"] == 8 * MIB
    state = await rig.served.get("/admin/state")
    (device,) = (d for d in state["devices"] if d["name"] == DEVICE)
    assert sum(held.values()) <= device["ours_bytes"] <= 40 * MIB
    assert await ask(rig) == text

    # Whoever asks for more than can move gets what can.
    for asked, least in ((0, len(cached)), (LAYERS, LAYERS), (LAYERS - 1, LAYERS - 1)):
        assert await ask(rig, moe_cpu_layers=asked) == text
        assert least <= (await rig.served.backend("m"))["moe_cpu_layers"] <= max(least, LAYERS - 1)


async def test_a_plan_says_what_is_loaded(rig: Rig) -> None:
    backend = await rig.loaded(moe_cache="8MiB")

    plan = await rig.served.get("/admin/models/m/plan")

    assert plan["devices"][0]["cache_bytes"] == 8 * MIB
    assert plan["cached_layers"] == len(backend["cached_layers"])
    assert plan["args"][plan["args"].index("--moe-cache-mib") + 1] == "8"


async def test_whole_layers_go_first_and_then_the_cache_is_made_smaller(rig: Rig) -> None:
    backend = await rig.loaded(moe_cache="8MiB")
    text = await ask(rig)
    held = backend["bytes"][DEVICE]
    bare = sum(held.values()) - held["experts"] - held["cache"]
    seen = rig.served.app.services.events.last_id

    # Room for half of the cache, and for no layer.
    rig.limit = f"{(bare + 5 * MIB) // MIB}MiB"
    await rig.served.apply(rig.text())

    async def smaller() -> dict[str, Any] | None:
        found = [b for b in await rig.served.ready() if b["bytes"][DEVICE].get("cache") == 4 * MIB]
        return found[0] if len(found) == 1 else None

    after = await until(smaller, "half of the cache is given back")
    assert {layer["experts"] for layer in after["layers"]} == {CPU}
    assert after["cached_layers"] == backend["cached_layers"]
    told = rig.served.app.services.events.since(seen)
    kinds = [e.kind for e in told if e.kind in ("moved", "cache_shrinks")]
    assert kinds[0] == "moved", "whole layers first"
    shrinks = [e.fields for e in told if e.kind == "cache_shrinks"]
    assert [(s["cache_bytes"], s["to_bytes"]) for s in shrinks] == [(8 * MIB, 4 * MIB)]
    assert await ask(rig) == text


async def test_auto_goes_by_what_was_measured(rig: Rig) -> None:
    """Without a measurement it is none."""
    assert (await rig.loaded())["cached_layers"] == []
    services = rig.served.app.services
    (backend,) = services.pool.backends()
    path = model(layers=LAYERS)
    points = (Point(LAYERS, 10.0, 100.0), Point(6, 15.0, 100.0))
    for share, layers in ((1.0, LAYERS), (0.5, None)):
        curve = Curve(
            model="m",
            model_id=model_id(path),
            devices=device_ids(await backend.engine.devices()),
            engine=engine_id(cache_build()),
            at="2026-11-26T20:00:00+00:00",
            block_count=LAYERS,
            ctx=512,
            prompt_tokens=8,
            generated_tokens=8,
            rounds=1,
            points=points,
            caches=(CachePoint(share, MIB, 8, 30.0, 100.0),),
        )
        save(rig.folder / "state", curve)
        loaded = await rig.loaded()
        cached = loaded["cached_layers"]
        assert loaded["bytes"][DEVICE]["cache"] > 3 * MIB
        assert len(cached) == layers if layers else 0 < len(cached) < LAYERS
        assert await ask(rig)
        (backend,) = services.pool.backends()
    save(rig.folder / "state", curve.__class__(**{**_fields(curve), "caches": ()}))
    assert (await rig.loaded())["cached_layers"] == []


def _fields(curve: Curve) -> dict[str, Any]:
    return {name: getattr(curve, name) for name in curve.__slots__}


async def test_a_build_without_one_serves_and_says_so(rig: Rig, tmp_path: Path) -> None:
    m = {"path": model(layers=4), "ctx": 512, "moe_cache": "8MiB", "moe_cpu_layers": 2}
    async with proxy(tmp_path, policies({"m": m})) as served:
        await served.post("/v1/completions", BODY)
        backend = await served.backend("m")

    assert backend["cached_layers"] == []
    (warning,) = backend["warnings"]
    assert warning.startswith("moe_cache: this build of llama.cpp has no expert cache")
