"""From what a request asks to a backend: plans, leases with a split, and the one retry."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from proxy.catalog.store import Store
from proxy.engine.types import LoadOptions, Mode
from proxy.errors import BackendDied, BadRequest, Conflict, KillsWorkers, NotServing, Suspected
from proxy.pool.lease import Lease
from proxy.pool.pool import Pool
from proxy.pool.state import Backend, Name
from proxy.routing import router
from proxy.routing.planner import Planner
from proxy.routing.request import ModelRequest
from proxy.routing.router import Router
from proxy.split import AUTO, Split
from tests.catalog.test_store import put
from tests.pool.conftest import House, house
from tests.pool.helpers import until
from tests.support.routing import LAYERS, Folder
from tests.support.serving import pid_of

__all__ = ["house"]  # a fixture
T = TypeVar("T")


class Asked:
    """A controller that only takes down what it is asked."""

    def __init__(self) -> None:
        self.splits: list[tuple[str, Split]] = []
        self.error: Exception | None = None
        self.can_move = True

    async def apply_request(self, backend: Backend, split: Split) -> bool:
        self.splits.append((backend.id, split))
        if self.error:
            error, self.error = self.error, None
            raise error
        return self.can_move


class Setting(Folder):
    """A router over real policies, a real catalogue and a pool of small servers."""

    def __init__(self, house: House, folder: Path) -> None:
        super().__init__(folder)
        self.house = house
        self.pool: Pool = house.pool()
        self.controller = Asked()
        self.planner = Planner(self.catalog)
        self.arrival: asyncio.Future[None] | None = None
        self.begun = 0
        self.router = Router(
            self.planner, self.pool, self.controller, lambda _: self.arrival, self._begins
        )

    def _begins(self) -> None:
        self.begun += 1

    async def options(self, request: ModelRequest, mode: Mode = "generation") -> LoadOptions:
        model = self.resolver.resolve(request.model)
        return await self.planner.load_options(model, request, mode)

    async def route(self, request: ModelRequest, mode: Mode) -> Lease:
        return await self.router.route(self.resolver.resolve(request.model), request, mode)

    async def with_retry(
        self,
        request: ModelRequest,
        mode: Mode,
        send: Callable[[Lease], Awaitable[T]],
        digest: bytes = b"",
    ) -> T:
        model = self.resolver.resolve(request.model)
        return await self.router.with_retry(model, request, mode, send, digest)


@pytest.fixture
async def setting(house: House, tmp_path: Path) -> Setting:
    return Setting(house, tmp_path)


class TestRoute:
    async def test_a_split_is_asked_of_the_controller(self, setting: Setting) -> None:
        for split in (None, 3, AUTO):
            async with await setting.route(
                ModelRequest("tiny", split=split), "generation"
            ) as lease:
                assert lease.backend.options.model == "tiny"

        assert setting.controller.splits == [("b1", 3), ("b1", AUTO)]
        assert setting.begun == 3, "whoever samples is told that there is something to see"

    async def test_a_split_in_the_key_is_not(self, setting: Setting) -> None:
        async with await setting.route(ModelRequest("apart", split=1), "generation") as lease:
            assert lease.backend.options.split == 1

        assert setting.controller.splits == []

    async def test_a_split_that_cannot_be_gives_the_backend_back(self, setting: Setting) -> None:
        setting.controller.error = Conflict("it cannot move")
        with pytest.raises(Conflict):
            await setting.route(ModelRequest("tiny", split=3), "generation")

        assert "in_flight=0" in repr(setting.pool)

    async def test_a_conversation_that_is_on_its_way_is_waited_for(self, setting: Setting) -> None:
        setting.arrival = asyncio.get_running_loop().create_future()
        routed = asyncio.ensure_future(setting.route(ModelRequest("tiny"), "generation"))
        await until(setting.pool, "in_flight=1")
        for _ in range(10):
            await asyncio.sleep(0)

        assert not routed.done()
        setting.arrival.set_result(None)
        (await routed).release()

    async def test_it_is_waited_for_so_long_only(
        self, setting: Setting, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(router, "ARRIVAL_S", 0.01)
        setting.arrival = asyncio.get_running_loop().create_future()

        (await setting.route(ModelRequest("tiny"), "generation")).release()

    async def test_who_leaves_while_it_comes_gives_the_backend_back(self, setting: Setting) -> None:
        setting.arrival = asyncio.get_running_loop().create_future()
        routed = asyncio.ensure_future(setting.route(ModelRequest("tiny"), "generation"))
        await until(setting.pool, "in_flight=1")
        routed.cancel()
        with pytest.raises(asyncio.CancelledError):
            await routed

        assert "in_flight=0" in repr(setting.pool)
        assert not setting.arrival.done()

    async def test_an_engine_that_cannot_move_is_loaded_with_the_split(
        self, setting: Setting
    ) -> None:
        """The new backend takes the old one's place, and who names no split takes what is there."""
        setting.controller.can_move = False
        async with await setting.route(ModelRequest("tiny"), "generation") as lease:
            old = lease.backend

        async with await setting.route(ModelRequest("tiny", split=AUTO), "generation") as lease:
            new = lease.backend
            assert new.options == replace(old.options, split=LAYERS)
        await setting.pool.until_left(old, 60.0)
        async with await setting.route(ModelRequest("tiny"), "generation") as lease:
            assert lease.backend is new


class TestVariants:
    async def test_the_backends_of_a_variant_are_those_that_serve_it(
        self, setting: Setting
    ) -> None:
        resolve, backends_of = setting.resolver.resolve, setting.router.backends_of
        assert await backends_of(resolve("variant")) == []
        async with await setting.route(ModelRequest("tiny"), "generation") as lease:
            for name in ("tiny", "gpt-4o", "variant", "same"):
                assert await backends_of(resolve(name)) == [lease.backend]
            assert await backends_of(resolve("larger")) == [], "it needs another context"
            assert await backends_of(resolve("apart")) == []

    async def test_a_variant_shares_the_backend_of_its_base(self, setting: Setting) -> None:
        """It asks for its own split unless the request has one; its base takes what is there."""
        for name, split in (("variant", None), ("variant", 1), ("same", None), ("tiny", None)):
            async with await setting.route(ModelRequest(name, split=split), "generation") as lease:
                assert lease.backend.id == "b1"
                assert lease.backend.options.model == "tiny"

        assert setting.controller.splits == [("b1", 4), ("b1", 1)]
        model = setting.resolver.resolve("variant")
        assert (model.name, model.path) == ("variant", setting.path)
        assert model.policy.args == ("--jinja",)
        assert model.policy.params == {"temperature": 0.1}

    async def test_without_experts_its_own_split_is_that_of_its_feed_forward_weights(
        self, setting: Setting
    ) -> None:
        async with await setting.route(ModelRequest("dense"), "generation") as lease:
            assert lease.backend.options.dense
        async with await setting.route(ModelRequest("dense-variant"), "generation") as lease:
            assert lease.backend.id == "b1"

        assert setting.controller.splits == [("b1", 2)]


class TestManifests:
    """Resolver of a store bring settings of their own."""

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

        options = await stored.options(ModelRequest("mine"))

        assert options.model == "mine:latest"
        assert options.ctx == 512
        assert (options.projector, options.adapters) == (entry.projector, entry.adapters)
        assert options.template == entry.template_file
        assert options.template is not None
        assert (await stored.options(ModelRequest("mine", ctx=1024))).ctx == 1024

    async def test_its_split_is_the_policys_not_a_requests(self, stored: Setting) -> None:
        """So the operator's word counts more."""
        for split in (None, 1):
            async with await stored.route(ModelRequest("mine", split=split), "generation"):
                pass

        assert stored.resolver.resolve("mine").policy.moe_cpu_layers == 3
        assert stored.controller.splits == [("b1", 1)]

    async def test_what_llama_cpp_cannot_load_is_refused(self, stored: Setting) -> None:
        with pytest.raises(BadRequest, match="cloud:latest cannot be loaded: it runs at x"):
            await stored.options(ModelRequest("cloud"))


class TestRetry:
    ASK = ModelRequest("tiny")

    async def test_a_worker_that_dies_before_the_first_byte(self, setting: Setting) -> None:
        """The client does not notice: the second worker answers."""
        seen: list[str] = []

        async def send(lease: Lease) -> str:
            seen.append(f"{lease.backend.id}.{lease.backend.generation}")
            if len(seen) == 1:
                os.kill(pid_of(lease.backend.engine), signal.SIGKILL)
                raise BackendDied("connection reset")
            return "answer"

        assert await setting.with_retry(self.ASK, "generation", send) == "answer"
        assert seen == ["b1.1", "b1.2"]
        assert "ready in_flight=0" in repr(setting.pool)

    async def test_only_once(self, setting: Setting) -> None:
        async def send(lease: Lease) -> None:
            os.kill(pid_of(lease.backend.engine), signal.SIGKILL)
            raise BackendDied(f"death of generation {lease.backend.generation}")

        with pytest.raises(BackendDied, match="generation 2"):
            await setting.with_retry(self.ASK, "generation", send)
        assert setting.pool.queue_length == 0

    async def test_the_place_of_a_dead_worker_is_nobodys(self, setting: Setting) -> None:
        """It is given back when its end is known: the next in line would be sent there."""
        held: list[int] = []

        async def send(lease: Lease) -> str:
            if lease.backend.generation == 2:
                return "answer"
            left = setting.pool.until_left

            async def until_left(backend: Backend, timeout_s: float) -> bool:
                held.append(backend.in_flight)
                return await left(backend, timeout_s)

            monkeypatch.setattr(setting.pool, "until_left", until_left)
            os.kill(pid_of(lease.backend.engine), signal.SIGKILL)
            raise BackendDied("connection reset")

        with pytest.MonkeyPatch.context() as monkeypatch:
            assert await setting.with_retry(self.ASK, "generation", send) == "answer"
        assert held == [1]

    async def test_a_worker_that_dies_while_it_moves(
        self, setting: Setting, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("proxy.routing.router.DEATH_IS_KNOWN_S", 0.01)
        setting.controller.error = BackendDied("the control socket closed")

        async def send(lease: Lease) -> str:
            return "answer"

        # This worker lives on; that the pool still has it is no reason to give up.
        answer = await setting.with_retry(ModelRequest("tiny", split=1), "generation", send)

        assert answer == "answer"
        assert setting.controller.splits == [("b1", 1), ("b1", 1)]

    @pytest.mark.parametrize(
        ("answers", "given_up"),
        [
            ("xx x.", True),
            ("xx . xx . xx", False),  # what it answers between them shows that it serves
            ("xx", False),
        ],
    )
    async def test_a_live_worker_that_breaks_requests_in_a_row(
        self, answers: str, given_up: bool, setting: Setting, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("proxy.routing.router.DEATH_IS_KNOWN_S", 0.01)
        async with await setting.route(self.ASK, "generation") as lease:
            first = lease.backend.name

        for request in answers.split():
            outcomes = iter(request)

            async def send(lease: Lease, outcomes: Iterator[str] = outcomes) -> Name:
                if next(outcomes) == "x":
                    raise BackendDied("it closed the connection")
                return lease.backend.name

            try:
                answered = await setting.with_retry(self.ASK, "generation", send)
            except BackendDied:
                assert request == "xx"
            else:
                assert (answered != first) is given_up

        assert len(setting.house.made) == 1 + given_up

    async def test_it_is_not_given_up_while_it_answers_somebody(
        self, setting: Setting, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("proxy.routing.router.DEATH_IS_KNOWN_S", 0.01)

        async def send(lease: Lease) -> None:
            raise BackendDied("it closed the connection")

        async with await setting.route(self.ASK, "generation") as lease:
            for _ in range(3):
                with pytest.raises(BackendDied):
                    await setting.with_retry(self.ASK, "generation", send)
            assert lease.backend.state == "ready"

        for _ in range(2):
            with pytest.raises(BackendDied):
                await setting.with_retry(self.ASK, "generation", send)
        assert lease.backend.state != "ready"

    async def test_a_backend_that_was_not_reached_costs_no_try(self, setting: Setting) -> None:
        """It has not seen the request. One that ended unasked twice is started after a back-off,
        which is waited for."""
        errors = [NotServing("refused"), NotServing("refused"), BackendDied("reset")]

        async def send(lease: Lease) -> str:
            os.kill(pid_of(lease.backend.engine), signal.SIGKILL)
            if errors:
                raise errors.pop()
            return "answer"

        assert await setting.with_retry(self.ASK, "generation", send) == "answer"

    async def test_nobody_is_tried_for_ever(self, setting: Setting) -> None:
        async def send(lease: Lease) -> None:
            os.kill(pid_of(lease.backend.engine), signal.SIGKILL)
            raise NotServing(f"refused by {lease.backend.generation}")

        with pytest.raises(NotServing, match="refused by 4"):
            await setting.with_retry(self.ASK, "generation", send)

    async def test_other_errors_are_not_retried(self, setting: Setting) -> None:
        calls: list[str] = []

        async def send(lease: Lease) -> None:
            calls.append(lease.backend.id)
            raise Conflict("no")

        with pytest.raises(Conflict):
            await setting.with_retry(self.ASK, "generation", send)
        assert calls == ["b1"]
        assert "in_flight=0" in repr(setting.pool)

    async def test_a_client_that_leaves_gives_its_lease_back(self, setting: Setting) -> None:
        entered = asyncio.Event()

        async def send(lease: Lease) -> None:
            entered.set()
            await asyncio.Event().wait()

        client = asyncio.ensure_future(setting.with_retry(self.ASK, "generation", send))
        await entered.wait()
        assert "in_flight=1" in repr(setting.pool)
        client.cancel()
        with pytest.raises(asyncio.CancelledError):
            await client
        assert "ready in_flight=0" in repr(setting.pool)


class TestSuspects:
    """Requests over which workers crash: small servers that abort."""

    ASK = ModelRequest("tiny")

    async def crash(self, lease: Lease) -> str:
        os.kill(pid_of(lease.backend.engine), signal.SIGSEGV)
        raise BackendDied("connection reset")

    async def answer(self, lease: Lease) -> str:
        lease.answered()
        return "answer"

    async def test_two_workers_are_enough(self, setting: Setting) -> None:
        with pytest.raises(KillsWorkers, match="2 workers of tiny crashed over this request"):
            await setting.with_retry(self.ASK, "generation", self.crash, b"poison")
        assert setting.house.made == ["b1", "b1"]

        with pytest.raises(KillsWorkers):
            await setting.with_retry(self.ASK, "generation", self.answer, b"poison")
        assert setting.house.made == ["b1", "b1"], "it is not even asked"

    async def test_others_are_answered(self, setting: Setting) -> None:
        await setting.with_retry(self.ASK, "generation", self.answer, b"other")
        with pytest.raises(KillsWorkers):
            await setting.with_retry(self.ASK, "generation", self.crash, b"poison")

        assert await setting.with_retry(self.ASK, "generation", self.answer, b"other") == "answer"

    async def test_it_is_not_asked_again_while_others_use_the_next_worker(
        self, setting: Setting
    ) -> None:
        others: list[Lease] = []

        async def crash_and_let_others_come(lease: Lease) -> str:
            try:
                return await self.crash(lease)
            finally:
                await setting.pool.until_left(lease.backend, 50.0)
                others.append(await setting.route(self.ASK, "generation"))

        with pytest.raises(Suspected, match="others use the next one") as refused:
            await setting.with_retry(self.ASK, "generation", crash_and_let_others_come, b"poison")
        assert refused.value.retry_after_s
        with pytest.raises(Suspected):
            await setting.with_retry(self.ASK, "generation", self.answer, b"poison")
        assert "ready in_flight=1" in repr(setting.pool)

        others[0].release()
        assert await setting.with_retry(self.ASK, "generation", self.answer, b"poison") == "answer"
        async with await setting.route(self.ASK, "generation"):
            answer = await setting.with_retry(self.ASK, "generation", self.answer, b"poison")
        assert answer == "answer", "an answer has cleared it"

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    async def test_who_is_there_when_somebody_kills_the_worker_is_not_to_blame(
        self, setting: Setting, number: signal.Signals
    ) -> None:
        async def killed(lease: Lease) -> str:
            os.kill(pid_of(lease.backend.engine), number)
            raise BackendDied("connection reset")

        await setting.with_retry(self.ASK, "generation", self.answer, b"other")
        with pytest.raises(BackendDied):
            await setting.with_retry(self.ASK, "generation", killed, b"innocent")

        assert await setting.with_retry(self.ASK, "generation", self.answer, b"innocent")

    async def test_several_that_wait_for_their_first_byte_are_all_asked_again(
        self, setting: Setting
    ) -> None:
        there: list[Lease] = []
        all_there = asyncio.Event()

        async def send(lease: Lease) -> str:
            if lease.backend.generation > 1:
                return await self.answer(lease)
            there.append(lease)
            if len(there) == 3:
                os.kill(pid_of(lease.backend.engine), signal.SIGABRT)
                all_there.set()
            await all_there.wait()
            raise BackendDied("connection reset")

        asked = (setting.with_retry(self.ASK, "generation", send, b"%d" % n) for n in range(3))
        assert await asyncio.gather(*asked) == ["answer"] * 3
