"""Which context is loaded where a request asks for one."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.placement.budget import Budget
from proxy.placement.estimate import estimate
from proxy.placement.footprint import settings_of
from proxy.routing.context_size import steps
from proxy.routing.planner import Planner
from proxy.routing.request import ModelRequest
from tests.support.routing import TRAINED, Folder

STEP = 1024


@pytest.mark.parametrize(
    ("asked", "usual", "trained", "expected"),
    [
        (8993, 8192, 131072, (16384, 12288)),
        (10300, 8192, 131072, (16384, 12288)),
        (12288, 8192, 131072, (16384, 12288)),
        (16384, 8192, 131072, (16384, 16384)),
        (16385, 8192, None, (32768, 20480)),
        (100, 8192, 131072, (4096, 4096)),
        # What is loaded for those who name none is enough.
        (2000, 2048, 131072, (2048, 2048)),
        (9000, 10000, 131072, (10000, 10000)),
        (9000, 32768, 131072, (16384, 12288)),
        # A model was trained for so many, and more is of no use.
        (9000, 8192, 9500, (9500, 9500)),
        (9000, 8192, 16384, (16384, 12288)),
    ],
)
def test_steps(asked: int, usual: int, trained: int | None, expected: tuple[int, int]) -> None:
    assert steps(asked, 4096, usual, trained) == expected


def test_a_step_of_one_rounds_nothing_up() -> None:
    doubled, rounded = steps(9000, 1, 8192, 131072)

    assert (doubled, rounded) == (9000, 9000)


class Rig(Folder):
    """What would be loaded for a request on devices of a size, None: they are not known."""

    async def ctx(self, name: str, asked: int | None, size: int | None) -> int:
        def capacity(rpc: Sequence[str]) -> list[Budget]:
            return [] if size is None else [Budget("CUDA0", size)]

        model, planner = self.resolver.resolve(name), Planner(self.catalog, capacity)
        plan = await planner.plan(model, ModelRequest(name, ctx=asked), "generation")
        return (await planner.to_load(model, plan)).options.ctx

    def needs(self, name: str, ctx: int) -> int:
        """Bytes of a model, all of it on the device."""
        options = replace(self.plan(ModelRequest(name)).options, ctx=ctx)
        model = self.resolver.resolve(name)
        assert model.entry is not None
        made = estimate(self.catalog.header(model.entry), settings_of(options))
        every = range(len(made.layers))
        return made.weights_bytes + made.kv_bytes + made.compute_bytes(every, ())


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    rig = Rig(tmp_path)
    models = {
        name: replace(policy, ctx_step=STEP, ctx=512)
        for name, policy in rig.policies.models.items()
    }
    rig.policies = replace(rig.policies, models=models)
    return rig


async def test_as_memory_has_room(rig: Rig) -> None:
    asked = 4 * STEP + 1
    doubled, rounded = TRAINED, 5 * STEP
    between = (rig.needs("expert", rounded) + rig.needs("expert", doubled)) // 2

    assert await rig.ctx("expert", asked, 64 << 30) == doubled
    assert await rig.ctx("expert", asked, between) == rounded
    assert await rig.ctx("expert", asked, 1 << 20) == asked, "nothing fits"
    assert await rig.ctx("expert", asked, None) == rounded, "nobody knows"


async def test_what_a_policy_says_is_loaded_as_it_is(rig: Rig) -> None:
    assert await rig.ctx("expert", None, 64 << 30) == 512


async def test_a_command_takes_steps_too(rig: Rig) -> None:
    assert await rig.ctx("foreign", STEP + 1, 64 << 30) == 2 * STEP
    assert await rig.ctx("fixed", STEP + 1, 64 << 30) == 512


async def test_a_growing_chat_takes_few_loads(rig: Rig) -> None:
    """What is loaded for one serves the next ones."""
    for size in (None, 64 << 30):
        loads: list[int] = []
        for asked in (1200, 1300, 1700, 2000, 2100, 2900):
            if not any(ctx >= asked for ctx in loads):
                loads.append(await rig.ctx("expert", asked, size))
        assert len(loads) == 2, loads
