"""From what a request asks to a backend: plans, leases with a split, and the one retry."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from math import inf
from pathlib import Path

import aiohttp
import pytest

from proxy.catalog.local import Catalog
from proxy.catalog.store import Store
from proxy.engine.types import LoadOptions, Mode
from proxy.errors import BackendDied, BadRequest, Conflict, ModelNotFound
from proxy.placement.budget import Budget
from proxy.policy.load import load
from proxy.pool.events import Terms
from proxy.pool.lease import Lease
from proxy.pool.pool import Pool
from proxy.pool.state import Backend
from proxy.router import Ask, Router
from proxy.split import AUTO, Layers, Split
from tests.catalog.test_store import put
from tests.pool.conftest import House
from tests.support import models

LAYERS = 4
TRAINED = 8192
POLICY = """
[engine]
threads = 3
[devices]
rpc = ["127.0.0.1:50052"]
[defaults]
ctx = 4096
keep_alive = "1m"
[models.tiny]
path = "tiny.gguf"
aliases = ["gpt-4o"]
moe_cpu_layers = 2
args = ["--jinja"]
keep_alive = "-1"
[models.apart]
path = "tiny.gguf"
split = "separate"
moe_cpu_layers = 3
[models.apart-auto]
path = "tiny.gguf"
split = "separate"
[models.embedder]
path = "tiny.gguf"
mode = "embedding"
[models.averaged]
path = "tiny.gguf"
args = ["--pooling", "mean"]
[models.by-hand]
path = "tiny.gguf"
args = ["--pooling", "mean", "--ubatch-size", "1024"]
[models.encoder]
path = "encoder.gguf"
[models.foreign]
path = "tiny.gguf"
engine = "command"
command = ["srv", "{port}", "-m", "{model}", "-c", "{ctx}", "--n-cpu-moe", "{moe_cpu_layers}"]
[models.fixed]
path = "tiny.gguf"
engine = "command"
command = ["srv", "{port}"]
[models.elsewhere]
engine = "command"
command = ["srv", "{port}"]
[models.folded]
ctx = 2048
[models.ghost]
[models.long]
path = "tiny.gguf"
ctx = 99999
[models.variant]
base = "gpt-4o"
moe_cpu_layers = 4
params = { temperature = 0.1 }
[models.same]
base = "tiny"
[models.larger]
base = "tiny"
ctx = 8192
[models.dense]
path = "dense.gguf"
dense_cpu_layers = 1
[models.whole]
path = "dense.gguf"
[models.expert]
path = "tiny.gguf"
dense_cpu_layers = 1
[models.dense-apart]
path = "dense.gguf"
split = "separate"
dense_cpu_layers = "full"
[models.dense-variant]
base = "dense"
dense_cpu_layers = 2
moe_cpu_layers = 3
"""


class Asked:
    """A controller that only takes down what it is asked."""

    def __init__(self) -> None:
        self.splits: list[tuple[str, Split]] = []
        self.error: Exception | None = None
        self.can_move = True

    async def ask(self, backend: Backend, split: Split) -> bool:
        self.splits.append((backend.id, split))
        if self.error:
            error, self.error = self.error, None
            raise error
        return self.can_move


class Setting:
    """A router over real policies, a real catalogue and a pool of small servers."""

    def __init__(self, house: House, folder: Path) -> None:
        self.house = house
        (folder / "tiny.gguf").symlink_to(models.model(layers=LAYERS))
        (folder / "dense.gguf").symlink_to(models.model("qwen3", layers=LAYERS))
        (folder / "encoder.gguf").symlink_to(models.model("bert", layers=2))
        (folder / "more").mkdir()
        other = models.model(layers=LAYERS, seed=1)
        (folder / "more" / "Folded-Q8_0.gguf").symlink_to(other)
        (folder / "more" / "broken.gguf").write_bytes(b"GGUF")
        (folder / "policies.toml").write_text(POLICY)
        loaded = load(folder / "policies.toml", {"HOME": str(folder)})
        assert loaded.policies is not None, loaded.problems
        self.policies = loaded.policies
        named = {p.name: p.path for p in self.policies.models.values() if p.path}
        self.catalog = Catalog([folder / "more"], named)
        self.path = folder / "tiny.gguf"
        self.pool: Pool = house.pool()
        self.controller = Asked()
        self.router = Router(lambda: self.policies, self.catalog, self.pool, self.controller)

    async def options(self, ask: Ask) -> LoadOptions:
        return (await self.router.plan(ask, "generation")).options


@pytest.fixture
async def setting(tmp_path: Path) -> AsyncIterator[Setting]:
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        house = House(tmp_path, http)
        yield Setting(house, tmp_path)
        for pool in house.pools:
            await pool.drain(0.0)


class TestPlan:
    async def test_a_hosted_model(self, setting: Setting) -> None:
        """All that decides what is loaded is in the options, and the split is not."""
        plan = await setting.router.plan(Ask("gpt-4o"), "generation")

        assert plan.options == LoadOptions(
            "tiny",
            setting.path,
            ctx=4096,
            args=("--jinja",),
            rpc=("127.0.0.1:50052",),
            threads=3,
            ubatch=512,
        )
        assert plan.terms == Terms(inf, frozenset({"ctx", "split"}))

    async def test_a_model_without_experts_moves_only_where_a_policy_says_so(
        self, setting: Setting
    ) -> None:
        names = ("dense", "whole", "expert", "dense-apart")
        found = [await setting.options(Ask(name)) for name in names]

        assert [x.dense for x in found] == [True, False, False, True]
        assert [x.split for x in found] == [None, None, None, LAYERS]
        assert (await setting.options(Ask("dense-apart", split=1))).split == 1

    async def test_the_batch_is_chosen_by_what_the_devices_have_room_for(
        self, setting: Setting
    ) -> None:
        size = 1 << 20

        def capacity(rpc: Sequence[str]) -> list[Budget]:
            assert rpc == ("127.0.0.1:50052",)
            return [Budget("CUDA0", size)]

        router = Router(
            lambda: setting.policies, setting.catalog, setting.pool, setting.controller, capacity
        )
        assert (await router.plan(Ask("tiny"), "generation")).options.ubatch == 512
        size = 64 << 30
        assert (await router.plan(Ask("tiny"), "generation")).options.ubatch == 2048

    async def test_a_model_that_pools_by_itself_is_not_told_how(self, setting: Setting) -> None:
        async def args(name: str, mode: Mode) -> tuple[str, ...]:
            return (await setting.router.plan(Ask(name), mode)).options.args

        assert await args("tiny", "embedding") == ("--pooling", "last", "--jinja")
        assert await args("embedder", "generation") == ("--pooling", "last")
        assert await args("averaged", "embedding") == ("--pooling", "mean")
        assert await args("encoder", "embedding") == ()
        assert await args("tiny", "generation") == ("--jinja",)
        assert await args("foreign", "embedding") == ()

    async def test_a_batch_takes_a_whole_input_where_it_has_to(self, setting: Setting) -> None:
        """What looks at all tokens at once, or adds up what all of them say."""

        async def batch(name: str, mode: Mode, ctx: int | None = None) -> int | None:
            return (await setting.router.plan(Ask(name, ctx=ctx), mode)).options.ubatch

        assert await batch("encoder", "embedding") == 512, "its context"
        assert await batch("averaged", "embedding") == 2048
        assert await batch("averaged", "embedding", ctx=1024) == 1024
        assert await batch("by-hand", "embedding") is None
        assert await batch("tiny", "rerank") == 2048

    @pytest.mark.parametrize(("model", "mode"), [("foreign", "generation"), ("tiny", "embedding")])
    async def test_no_batch_is_chosen_where_it_is_the_engines_business(
        self, setting: Setting, model: str, mode: Mode
    ) -> None:
        assert (await setting.router.plan(Ask(model), mode)).options.ubatch is None

    async def test_ranges_are_refused_where_the_split_is_loaded(self, setting: Setting) -> None:
        for model in ("apart", "foreign"):
            with pytest.raises(BadRequest, match="takes only a number"):
                await setting.router.plan(Ask(model, Layers(((1, 2),))), "generation")
        with pytest.raises(Conflict, match="does not take"):
            await setting.router.plan(Ask("fixed", Layers(((1, 2),))), "generation")

    async def test_what_a_request_names_is_not_open(self, setting: Setting) -> None:
        plan = await setting.router.plan(Ask("foreign", split=1, ctx=512), "generation")

        assert (plan.options.ctx, plan.options.split) == (512, 1)
        assert plan.terms.leaves_open == frozenset()

    async def test_a_split_that_can_be_moved_to_is_open(self, setting: Setting) -> None:
        """A hosted backend serves a request for any split: the controller moves it there."""
        plan = await setting.router.plan(Ask("tiny", split=1, ctx=512), "generation")

        assert (plan.options.ctx, plan.options.split) == (512, None)
        assert plan.terms.leaves_open == {"split"}

    async def test_ctx_is_at_most_what_the_model_was_trained_for(self, setting: Setting) -> None:
        assert (await setting.options(Ask("tiny", ctx=TRAINED))).ctx == TRAINED
        assert (await setting.options(Ask("tiny", ctx=TRAINED + 1))).ctx == TRAINED
        assert (await setting.options(Ask("long"))).ctx == TRAINED

    async def test_the_mode_is_the_requests_but_for_models_of_one_mode(
        self, setting: Setting
    ) -> None:
        plan = setting.router.plan

        assert (await plan(Ask("tiny"), "rerank")).options.mode == "rerank"
        assert (await plan(Ask("embedder"), "generation")).options.mode == "embedding"
        assert (await plan(Ask("fixed"), "embedding")).options.mode == "generation"

    @pytest.mark.parametrize(
        ("model", "asked", "key"),
        [
            ("apart", None, 3),
            ("apart", 1, 1),
            ("apart", -1, LAYERS),
            ("apart", AUTO, None),
            ("apart-auto", None, None),
            ("foreign", None, LAYERS),  # auto: all on the CPU is what surely fits
            ("foreign", AUTO, LAYERS),
            ("foreign", 0, 0),
            ("foreign", 99, LAYERS),
            ("fixed", None, None),
            ("fixed", AUTO, None),
        ],
    )
    async def test_the_split_is_in_the_key_where_it_takes_a_process(
        self, setting: Setting, model: str, asked: Split | None, key: int | None
    ) -> None:
        assert (await setting.options(Ask(model, split=asked))).split == key

    async def test_a_command_that_takes_no_split_cannot_have_one(self, setting: Setting) -> None:
        with pytest.raises(Conflict, match="command of fixed does not take"):
            await setting.router.plan(Ask("fixed", split=2), "generation")

    async def test_a_command_that_takes_no_context_has_one(self, setting: Setting) -> None:
        plan = await setting.router.plan(Ask("fixed", ctx=128), "generation")

        assert plan.options.ctx == 4096
        assert "ctx" in plan.terms.leaves_open
        assert (await setting.options(Ask("foreign", ctx=128))).ctx == 128

    async def test_separate_splits_stand_side_by_side(self, setting: Setting) -> None:
        terms = (await setting.router.plan(Ask("apart"), "generation")).terms

        assert terms == Terms(60.0, frozenset({"ctx"}), side_by_side=True)

    async def test_a_file_we_cannot_read_is_the_engines_to_refuse(self, setting: Setting) -> None:
        assert (await setting.options(Ask("broken"))).path.name == "broken.gguf"


class TestResolve:
    def test_a_policy_under_another_name_of_the_file(self, setting: Setting) -> None:
        """Whatever spelling a request uses, it is the same model under the policy's name."""
        for name in ("folded", "Folded-Q8_0", "folded:q8_0", "FOLDED:latest"):
            model = setting.router.resolve(name)
            assert (model.name, model.policy.ctx) == ("folded", 2048)
            assert model.path.name == "Folded-Q8_0.gguf"

    def test_another_spelling_of_a_policys_name(self, setting: Setting) -> None:
        assert setting.router.resolve("Tiny:latest").policy.args == ("--jinja",)

    def test_a_policy_without_a_file(self, setting: Setting) -> None:
        with pytest.raises(ModelNotFound, match="'ghost' has a policy, but no file"):
            setting.router.resolve("ghost")

    def test_a_command_that_knows_its_model_itself(self, setting: Setting) -> None:
        assert setting.router.resolve("elsewhere").path == Path("elsewhere")

    @pytest.mark.parametrize(
        ("name", "near"),
        [("tinny", "tiny"), ("gpt-4", "gpt-4o"), ("foldet", "folded")],
    )
    def test_names_that_come_close(self, setting: Setting, name: str, near: str) -> None:
        with pytest.raises(ModelNotFound, match=f"'{name}' not found; did you mean .*{near}") as e:
            setting.router.resolve(name)
        assert e.value.param == "model"

    def test_nothing_comes_close(self, setting: Setting) -> None:
        with pytest.raises(ModelNotFound, match=r"x\.\.\.' not found$"):
            setting.router.resolve("x" * 5000)


class TestRoute:
    async def test_a_split_is_asked_of_the_controller(self, setting: Setting) -> None:
        for split in (None, 3, AUTO):
            async with await setting.router.route(Ask("tiny", split=split), "generation") as lease:
                assert lease.backend.options.model == "tiny"

        assert setting.controller.splits == [("b1", 3), ("b1", AUTO)]

    async def test_a_split_in_the_key_is_not(self, setting: Setting) -> None:
        async with await setting.router.route(Ask("apart", split=1), "generation") as lease:
            assert lease.backend.options.split == 1

        assert setting.controller.splits == []

    async def test_a_split_that_cannot_be_gives_the_backend_back(self, setting: Setting) -> None:
        setting.controller.error = Conflict("it cannot move")
        with pytest.raises(Conflict):
            await setting.router.route(Ask("tiny", split=3), "generation")

        assert "in_flight=0" in repr(setting.pool)

    async def test_an_engine_that_cannot_move_is_loaded_with_the_split(
        self, setting: Setting
    ) -> None:
        """The new backend takes the old one's place, and who names no split takes what is there."""
        setting.controller.can_move = False
        async with await setting.router.route(Ask("tiny"), "generation") as lease:
            old = lease.backend

        async with await setting.router.route(Ask("tiny", split=AUTO), "generation") as lease:
            new = lease.backend
            assert new.options == replace(old.options, split=LAYERS)
        await setting.pool.until_left(old, 60.0)
        async with await setting.router.route(Ask("tiny"), "generation") as lease:
            assert lease.backend is new

    async def test_a_changed_policy_counts_from_the_next_request_on(self, setting: Setting) -> None:
        changed = replace(setting.policies.models["tiny"], ctx=2048, keep_alive_s=9.0)
        setting.policies = replace(setting.policies, models={"tiny": changed})

        plan = await setting.router.plan(Ask("tiny"), "generation")

        assert (plan.options.ctx, plan.terms.default_keep_alive_s) == (2048, 9.0)


class TestVariants:
    async def test_the_backends_of_a_variant_are_those_that_serve_it(
        self, setting: Setting
    ) -> None:
        resolve, backends_of = setting.router.resolve, setting.router.backends_of
        assert await backends_of(resolve("variant")) == []
        async with await setting.router.route(Ask("tiny"), "generation") as lease:
            for name in ("tiny", "gpt-4o", "variant", "same"):
                assert await backends_of(resolve(name)) == [lease.backend]
            assert await backends_of(resolve("larger")) == [], "it needs another context"
            assert await backends_of(resolve("apart")) == []

    async def test_a_variant_shares_the_backend_of_its_base(self, setting: Setting) -> None:
        """It asks for its own split unless the request has one; its base takes what is there."""
        for name, split in (("variant", None), ("variant", 1), ("same", None), ("tiny", None)):
            async with await setting.router.route(Ask(name, split=split), "generation") as lease:
                assert lease.backend.id == "b1"
                assert lease.backend.options.model == "tiny"

        assert setting.controller.splits == [("b1", 4), ("b1", 1)]
        model = setting.router.resolve("variant")
        assert (model.name, model.path) == ("variant", setting.path)
        assert model.policy.args == ("--jinja",)
        assert model.policy.params == {"temperature": 0.1}

    async def test_without_experts_its_own_split_is_that_of_its_feed_forward_weights(
        self, setting: Setting
    ) -> None:
        async with await setting.router.route(Ask("dense"), "generation") as lease:
            assert lease.backend.options.dense
        async with await setting.router.route(Ask("dense-variant"), "generation") as lease:
            assert lease.backend.id == "b1"

        assert setting.controller.splits == [("b1", 2)]


class TestManifests:
    """Models of a store bring settings of their own."""

    @pytest.fixture
    def stored(self, setting: Setting, tmp_path: Path) -> Setting:
        store = tmp_path / "store"
        put(
            store,
            "registry.ollama.ai/library/mine/latest",
            model=setting.path.read_bytes(),
            projector=b"proj",
            adapter=b"lora",
            template=b"{% for m in messages %}{% endfor %}",
            params=b'{"num_ctx": 512, "moe_cpu_layers": 3}',
        )
        put(store, "registry.ollama.ai/library/cloud/latest", {"remote_host": "x"}, system=b"x")
        places = setting.catalog.places
        setting.catalog.use(places.dirs, places.named, [Store(store, "ollama")])
        return setting

    async def test_what_is_loaded(self, stored: Setting) -> None:
        entry = stored.catalog.find("mine")
        assert entry is not None

        options = await stored.options(Ask("mine"))

        assert options.model == "mine:latest"
        assert options.ctx == 512
        assert (options.projector, options.adapters) == (entry.projector, entry.adapters)
        assert options.template == entry.template_file
        assert options.template is not None
        assert (await stored.options(Ask("mine", ctx=1024))).ctx == 1024

    async def test_its_split_is_the_policys_not_a_requests(self, stored: Setting) -> None:
        """So the operator's word counts more."""
        for split in (None, 1):
            async with await stored.router.route(Ask("mine", split=split), "generation"):
                pass

        assert stored.router.resolve("mine").policy.moe_cpu_layers == 3
        assert stored.controller.splits == [("b1", 1)]

    async def test_what_llama_cpp_cannot_load_is_refused(self, stored: Setting) -> None:
        with pytest.raises(BadRequest, match="cloud:latest cannot be loaded: it runs at x"):
            await stored.options(Ask("cloud"))


class TestRetry:
    ASK = Ask("tiny")

    async def test_a_worker_that_dies_before_the_first_byte(self, setting: Setting) -> None:
        """The client does not notice: the second worker answers."""
        seen: list[str] = []

        async def send(lease: Lease) -> str:
            seen.append(f"{lease.backend.id}.{lease.backend.generation}")
            if len(seen) == 1:
                os.kill(lease.backend.engine.pid or 0, signal.SIGKILL)
                raise BackendDied("connection reset")
            return "answer"

        assert await setting.router.with_retry(self.ASK, "generation", send) == "answer"
        assert seen == ["b1.1", "b1.2"]
        assert "ready in_flight=0" in repr(setting.pool)

    async def test_only_once(self, setting: Setting) -> None:
        async def send(lease: Lease) -> None:
            os.kill(lease.backend.engine.pid or 0, signal.SIGKILL)
            raise BackendDied(f"death of generation {lease.backend.generation}")

        with pytest.raises(BackendDied, match="generation 2"):
            await setting.router.with_retry(self.ASK, "generation", send)
        assert setting.pool.queue_length == 0

    async def test_a_worker_that_dies_while_it_moves(self, setting: Setting) -> None:
        setting.controller.error = BackendDied("the control socket closed")

        async def send(lease: Lease) -> str:
            return "answer"

        # This worker lives on; that the pool still has it is no reason to give up.
        answer = await setting.router.with_retry(Ask("tiny", split=1), "generation", send)

        assert answer == "answer"
        assert setting.controller.splits == [("b1", 1), ("b1", 1)]

    async def test_other_errors_are_not_retried(self, setting: Setting) -> None:
        calls: list[str] = []

        async def send(lease: Lease) -> None:
            calls.append(lease.backend.id)
            raise Conflict("no")

        with pytest.raises(Conflict):
            await setting.router.with_retry(self.ASK, "generation", send)
        assert calls == ["b1"]
        assert "in_flight=0" in repr(setting.pool)

    async def test_a_client_that_leaves_gives_its_lease_back(self, setting: Setting) -> None:
        entered = asyncio.Event()

        async def send(lease: Lease) -> None:
            entered.set()
            await asyncio.Event().wait()

        client = asyncio.ensure_future(setting.router.with_retry(self.ASK, "generation", send))
        await entered.wait()
        assert "in_flight=1" in repr(setting.pool)
        client.cancel()
        with pytest.raises(asyncio.CancelledError):
            await client
        assert "ready in_flight=0" in repr(setting.pool)
