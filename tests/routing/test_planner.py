"""What is asked of the pool for a request."""

import os
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from proxy.demo.gguf_writer import TensorSpec, write_model
from proxy.engine.types import LoadOptions, Mode
from proxy.errors import BadRequest
from proxy.placement.budget import Budget
from proxy.pool.compatible import compatible
from proxy.pool.events import MatchPolicy
from proxy.routing.load_plan import LoadPlan
from proxy.routing.planner import Planner
from proxy.routing.request import ModelRequest
from tests.catalog.test_gguf_reader import key_values, number, text
from tests.support.routing import Folder


class Rig(Folder):
    """A planner over real policies and a real catalogue."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.planner = Planner(self.catalog)

    async def plan_with_batch(self, request: ModelRequest, mode: Mode = "generation") -> LoadPlan:
        model = self.resolver.resolve(request.model)
        plan = await self.planner.plan(model, request, mode)
        return replace(plan, options=await self.planner.load_options(model, request, mode))


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


async def test_a_hosted_model(rig: Rig) -> None:
    """All that decides what is loaded is in the options, and the split is not."""
    plan = await rig.plan_with_batch(ModelRequest("gpt-4o"))

    assert plan.options == LoadOptions(
        "tiny",
        rig.path,
        ctx=4096,
        args=("--jinja",),
        rpc=("127.0.0.1:50052",),
        threads=3,
        ubatch=512,
    )
    assert plan.matching == MatchPolicy(inf, frozenset({"ctx", "split", "parallel"}))


async def test_the_batch_is_chosen_by_what_the_devices_have_room_for(rig: Rig) -> None:
    size = 1 << 20

    def capacity(rpc: Sequence[str]) -> list[Budget]:
        assert rpc == ("127.0.0.1:50052",)
        return [Budget("CUDA0", size)]

    rig.planner = Planner(rig.catalog, capacity)
    assert (await rig.plan_with_batch(ModelRequest("tiny"))).options.ubatch == 512
    size = 64 << 30
    assert (await rig.plan_with_batch(ModelRequest("tiny"))).options.ubatch == 2048


async def test_how_many_conversations_is_chosen_by_what_the_devices_have_room_for(rig: Rig) -> None:
    """Where the policy does not say; and whoever asks is served by whatever was chosen."""
    size = 1 << 20
    rig.planner = Planner(rig.catalog, lambda _: [Budget("CUDA0", size)])

    short = await rig.plan_with_batch(ModelRequest("tiny"))
    size = 64 << 30
    enough = await rig.plan_with_batch(ModelRequest("tiny"))

    assert (short.options.parallel, enough.options.parallel) == (1, 4)
    assert compatible(short.options, enough.options, enough.matching.unpinned)
    assert not compatible(short.options, enough.options)


async def test_that_choice_is_made_once_for_what_does_not_change(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those whose start is refused ask with each request."""
    chosen: list[object] = []

    def choose(*asked: object) -> int:
        chosen.append(asked)
        return 2

    monkeypatch.setattr("proxy.routing.conversations.choose_parallel", choose)
    size = 1 << 30
    rig.planner = Planner(rig.catalog, lambda _: [Budget("CUDA0", size)])
    for _ in range(3):
        assert (await rig.plan_with_batch(ModelRequest("tiny"))).options.parallel == 2
    assert len(chosen) == 1
    size = 2 << 30
    await rig.plan_with_batch(ModelRequest("tiny"))
    assert len(chosen) == 2


@pytest.mark.parametrize("said", [1, 2, 7])
async def test_what_a_policy_says_of_conversations_is_kept(rig: Rig, said: int) -> None:
    rig.planner = Planner(rig.catalog, lambda _: [Budget("CUDA0", 1 << 20)])
    models = {name: replace(p, parallel=said) for name, p in rig.policies.models.items()}
    rig.policies = replace(rig.policies, models=models)

    plan = await rig.plan_with_batch(ModelRequest("tiny"))

    assert plan.options.parallel == said
    assert "parallel" not in plan.matching.unpinned


async def test_a_batch_takes_a_whole_input_where_it_has_to(rig: Rig) -> None:
    """What looks at all tokens at once, or adds up what all of them say."""

    async def batch(name: str, mode: Mode, ctx: int | None = None) -> int | None:
        return (await rig.plan_with_batch(ModelRequest(name, ctx=ctx), mode)).options.ubatch

    assert await batch("encoder", "embedding") == 512, "its context"
    assert await batch("averaged", "embedding") == 2048
    assert await batch("averaged", "embedding", ctx=1024) == 1024
    assert await batch("by-hand", "embedding") is None
    assert await batch("tiny", "rerank") == 2048


async def test_how_long_an_input_to_embed_may_be(rig: Rig) -> None:
    """By what is asked for; None where there is nothing to look at."""

    async def longest(name: str, tokens: int, ctx: int | None = None) -> int | None:
        model = rig.resolver.resolve(name)
        return await rig.planner.longest_input(model, ModelRequest(name, ctx=ctx), tokens)

    assert await longest("encoder", 9999) == 512, "its context"
    assert await longest("encoder", 9999, ctx=16) == 16
    assert await longest("averaged", 9999) == 2048, "its batch"
    assert await longest("tiny", 9999) == 4095, "by its last token: less than its context"
    assert await longest("encoder", 100) is None, "surely not too long"
    assert await longest("foreign", 9999) is None, "the engine's business"


@pytest.mark.parametrize(("model", "mode"), [("foreign", "generation"), ("tiny", "embedding")])
async def test_no_batch_is_chosen_where_it_is_the_engines_business(
    rig: Rig, model: str, mode: Mode
) -> None:
    assert (await rig.plan_with_batch(ModelRequest(model), mode)).options.ubatch is None


async def test_a_file_we_cannot_read_is_the_engines_to_refuse(rig: Rig) -> None:
    plan = await rig.plan_with_batch(ModelRequest("broken"))

    assert plan.options.path.name == "broken.gguf"


async def test_numbers_that_no_model_has_are_refused(rig: Rig) -> None:
    (rig.path.parent / "more" / "broken.gguf").write_bytes(
        key_values(
            text(b"general.architecture") + b"\x08\0\0\0" + text(b"qwen3moe"),
            number("qwen3moe.block_count", 2**31),
        )
    )

    with pytest.raises(BadRequest, match=r"cannot be loaded: .*block_count is 2147483648"):
        await rig.plan_with_batch(ModelRequest("broken"))


async def test_a_pipe_is_refused_before_somebody_waits_for_it(rig: Rig) -> None:
    rig.path.unlink()
    os.mkfifo(rig.path)
    rig.catalog.refresh()

    with pytest.raises(BadRequest, match="is no regular file"):
        await rig.plan_with_batch(ModelRequest("tiny"))


async def test_a_template_without_an_end_is_refused_before_a_start_hangs_in_it(rig: Rig) -> None:
    template = "{% for i in range(1000000000) %}{{ i }}{% endfor %}"
    write_model(
        rig.path.parent / "more" / "broken.gguf",
        "qwen3",
        metadata={".block_count": 1, "tokenizer.chat_template": template},
        tensors=[TensorSpec("a", (4, 64))],
    )
    rig.catalog.refresh()

    with pytest.raises(BadRequest, match="does not come to an end"):
        await rig.plan_with_batch(ModelRequest("broken"))


async def test_a_changed_policy_counts_from_the_next_request_on(rig: Rig) -> None:
    before = await rig.plan_with_batch(ModelRequest("tiny"))
    changed = replace(rig.policies.models["tiny"], ctx=2048, keep_alive_s=9.0)
    rig.policies = replace(rig.policies, models={"tiny": changed})

    plan = await rig.plan_with_batch(ModelRequest("tiny"))

    assert before.options.ctx == 4096
    assert (plan.options.ctx, plan.matching.default_keep_alive_s) == (2048, 9.0)


async def test_however_many_plans_were_asked_for_the_next_one_is_remembered(rig: Rig) -> None:
    """Numbers are the clients' to choose: whoever asks for many pushes out old ones only."""
    model = rig.resolver.resolve("tiny")
    for ctx in range(1, 5000):
        await rig.planner.plan(model, ModelRequest("tiny", ctx=ctx), "generation")

    plan = await rig.planner.plan(model, ModelRequest("tiny", ctx=6000), "generation")

    again = await rig.planner.plan(model, ModelRequest("tiny", ctx=6000), "generation")
    assert again is plan
