"""Which expert cache a model is loaded with, and what is said where there is none."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.catalog.gguf_reader import read_header
from proxy.engine.types import LoadOptions, Mode
from proxy.placement.budget import Budget
from proxy.placement.footprint import footprint
from proxy.pool.state import Backend
from proxy.routing.planner import Planner
from proxy.routing.request import ModelRequest
from tests.support.cache_build import cache_build
from tests.support.routing import LAYERS, Folder

MIB = 1 << 20


class Rig(Folder):
    """A planner over a small model, builds, and a device with room for some of its experts."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.share = 0.0
        usual = LoadOptions("m", self.path, ctx=512, parallel=1, ubatch=512)
        bare = footprint(read_header(self.path), usual, ["CUDA0"])["CUDA0"]
        self.budgets: Sequence[Budget] = [Budget("CUDA0", bare + 10 * MIB)]
        self.planner = Planner(self.catalog, lambda _: self.budgets, self.measured)

    async def measured(self, _: LoadOptions) -> float:
        return self.share

    async def load(
        self, name: str = "tiny", mode: Mode = "generation", *, build: bool = True, **own: Any
    ) -> LoadOptions:
        usual: dict[str, Any] = {"ctx": 512, "parallel": 1, "moe_cpu_layers": "auto"}
        policy = replace(self.policies.models[name], **usual | own)
        engine = replace(self.policies.engine, libdir=cache_build() if build else None)
        models = {**self.policies.models, name: policy}
        self.policies = replace(self.policies, models=models, engine=engine)
        asked = ModelRequest(name)
        return await self.planner.load_options(self.resolver.resolve(name), asked, mode)

    async def warnings(self, options: LoadOptions) -> tuple[str, ...]:
        backend = Backend("b1", options)
        await self.planner.caches.warn(backend)
        return backend.warnings


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def cache_of(options: LoadOptions) -> tuple[int, int]:
    return options.cache_mib, options.cached_layers


async def test_a_size_is_what_it_gets_beside_whole_layers(rig: Rig) -> None:
    options = await rig.load(moe_cache=4 * MIB)

    assert options.cache_mib == 4
    assert 1 < options.cached_layers < LAYERS
    assert await rig.warnings(options) == ()


async def test_a_number_of_layers_is_kept(rig: Rig) -> None:
    assert cache_of(await rig.load(moe_cache=4 * MIB, moe_cpu_layers=3)) == (4, 3)


@pytest.mark.parametrize("asked", ["auto", 0])
async def test_nobody_gets_one_unasked(rig: Rig, asked: Any) -> None:
    options = await rig.load(moe_cache=asked)

    assert cache_of(options) == (0, 0)
    assert await rig.warnings(options) == ()


async def test_auto_is_what_was_measured_to_be_best(rig: Rig) -> None:
    rig.share = 1.0
    alone = await rig.load(moe_cache="auto")
    rig.share = 0.5
    both = await rig.load(moe_cache="auto")

    assert alone.cached_layers == LAYERS
    assert both.cached_layers < LAYERS
    assert both.cache_mib < alone.cache_mib <= 10
    assert cache_of(await rig.load(moe_cache=0)) == (0, 0)


async def test_where_there_can_be_none_it_is_said_why(rig: Rig) -> None:
    """And only for a size that somebody asked for."""
    rig.share = 1.0
    options = await rig.load(build=False, moe_cache="auto")
    assert (cache_of(options), await rig.warnings(options)) == ((0, 0), ())

    options = await rig.load(build=False, moe_cache=4 * MIB)
    assert cache_of(options) == (0, 0)
    (why,) = await rig.warnings(options)
    assert why == "moe_cache: this build of llama.cpp has no expert cache (--moe-cache-mib)"

    rig.budgets = [Budget("CUDA0", 64 << 30)]
    (why,) = await rig.warnings(await rig.load(moe_cache=4 * MIB))
    assert why == "moe_cache: all experts fit on the device"

    options = await rig.load(moe_cache=0)
    assert await rig.warnings(options) == (), "it is not asked for any more"


async def test_only_what_generates_with_experts_has_one(rig: Rig) -> None:
    assert cache_of(await rig.load(mode="embedding", moe_cache=4 * MIB)) == (0, 0)
    assert cache_of(await rig.load("dense", moe_cache=4 * MIB, dense_cpu_layers="auto")) == (0, 0)
    assert cache_of(await rig.load("fixed", moe_cache=4 * MIB)) == (0, 0)
