"""Whose turn it is, over HTTP. Small servers that wait at gates stand in for llama-server where the
moment counts: what is asserted is who was answered before whom."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.node.names import CLIENT_HEADER, KEY_FILE_VARIABLE, KEY_HEADER
from proxy.pool.pool import Pool
from tests.support.commands import ASKED, GATED_SLOTS
from tests.support.fleet import KEY, key_file
from tests.support.gates import Gate
from tests.support.guard import until
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy
from tests.support.serving import pid_of

CHAT = "/v1/chat/completions"
MANY, ONE = "many-secret", "one-secret"


def text(folder: Path, parallel: int = 1, **server: Any) -> str:
    """Two keys, a server with so many slots, and at most eight that wait."""
    keys = folder / "keys.txt"
    keys.write_text(f"{MANY} admin many\n{ONE} use one\n")
    keys.chmod(0o600)
    gated = {"engine": "command", "command": list(GATED_SLOTS), "parallel": parallel}
    return policies({"gated": gated | {"max_queue": 8}}, server={"api_keys_file": keys} | server)


class Stage:
    """A proxy, and its clients: who was answered, in order."""

    def __init__(self, server: Proxy, folder: Path, gates: ExitStack) -> None:
        self.server, self._folder, self._gates = server, folder, gates
        self.pool = server.app.services.pool
        self.answered: list[str] = []

    def gate(self, name: str) -> Gate:
        return self._gates.enter_context(closing(Gate(self._folder / name)))

    def ask(
        self, name: str, key: str, gate: Gate | None = None, path: str = CHAT, **fields: Any
    ) -> asyncio.Task[int]:
        """A request, which may be held where it is answered. The task's result is its status."""
        body = ASKED | {"gates": [gate.path if gate else None]} | fields

        async def asked() -> int:
            headers = {"Authorization": f"Bearer {key}"}
            async with self.server.session.post(path, json=body, headers=headers) as answer:
                await answer.read()
                self.answered.append(name)
                return answer.status

        return asyncio.create_task(asked())

    async def until_waiting(self, count: int) -> None:
        await until(lambda: self.pool.queue_length == count, f"{count} wait")

    async def get(self, path: str) -> Any:
        headers = {"Authorization": f"Bearer {MANY}"}
        async with self.server.session.get(path, headers=headers) as answer:
            return await answer.json()


@pytest.fixture
def gates() -> Iterator[ExitStack]:
    with ExitStack() as gates:
        yield gates


@pytest.fixture
async def stage(tmp_path: Path, gates: ExitStack) -> AsyncIterator[Stage]:
    async with proxy(tmp_path, text(tmp_path)) as server:
        yield Stage(server, tmp_path, gates)


async def busy(stage: Stage, waiting: int) -> tuple[Gate, list[asyncio.Task[int]]]:
    """The only slot is taken by a request of MANY, and so many more of it wait."""
    gate = stage.gate("first")
    tasks = [stage.ask("first", MANY, gate)]
    await gate.reached()
    for number in range(waiting):
        tasks.append(stage.ask(f"many {number}", MANY))
        await stage.until_waiting(number + 1)
    return gate, tasks


async def test_another_key_is_next_however_many_one_key_has_waiting(stage: Stage) -> None:
    gate, tasks = await busy(stage, 6)
    tasks.append(stage.ask("one", ONE))
    await stage.until_waiting(7)

    await gate.open()
    assert await asyncio.gather(*tasks) == [200] * 8

    assert stage.answered[:2] == ["first", "one"]
    assert stage.answered[2:] == [f"many {number}" for number in range(6)]


async def test_without_keys_programs_are_told_apart_by_their_names(
    tmp_path: Path, gates: ExitStack
) -> None:
    async with proxy(tmp_path, text(tmp_path, api_keys_file=None)) as server:
        stage = Stage(server, tmp_path, gates)
        gate, tasks = await busy(stage, 5)

        async def other() -> None:
            body, headers = ASKED, {"User-Agent": "editor/1.0"}
            async with server.session.post(CHAT, json=body, headers=headers) as answer:
                await answer.read()
                stage.answered.append("editor")

        tasks.append(asyncio.create_task(other()))  # type: ignore[arg-type]
        await stage.until_waiting(6)
        await gate.open()
        await asyncio.gather(*tasks)

    assert stage.answered[:2] == ["first", "editor"]


async def test_of_one_program_a_short_answer_is_before_its_long_ones(stage: Stage) -> None:
    gate, tasks = await busy(stage, 5)
    tasks.append(stage.ask("short", MANY, max_tokens=16))
    await stage.until_waiting(6)

    await gate.open()
    await asyncio.gather(*tasks)

    assert stage.answered[:2] == ["first", "short"]


async def test_of_one_key_a_user_is_before_the_rest_of_another_users(stage: Stage) -> None:
    gate = stage.gate("first")
    tasks = [stage.ask("first", MANY, gate, user="alice")]
    await gate.reached()
    for number in range(5):
        tasks.append(stage.ask(f"alice {number}", MANY, user="alice"))
        await stage.until_waiting(number + 1)
    tasks.append(stage.ask("bob", MANY, user="bob"))
    await stage.until_waiting(6)

    await gate.open()
    await asyncio.gather(*tasks)

    assert stage.answered[:2] == ["first", "bob"]


@pytest.mark.parametrize(
    "path", ["/tokenize", "/apply-template", "/v1/chat/completions/input_tokens"]
)
async def test_what_needs_no_slot_does_not_wait(stage: Stage, path: str) -> None:
    gate, tasks = await busy(stage, 2)

    assert await stage.ask("asked", MANY, path=path) == 200

    assert stage.answered == ["asked"]
    await gate.open()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize(
    "path", ["/v1/messages", "/v1/embeddings", "/upstream/gated/v1/completions", "/api/generate"]
)
async def test_whatever_needs_a_slot_waits(stage: Stage, path: str) -> None:
    gate, tasks = await busy(stage, 0)

    asked = stage.ask("asked", ONE, path=path, prompt="a", input="a")
    await stage.until_waiting(1)

    asked.cancel()
    await stage.until_waiting(0)
    await gate.open()
    await asyncio.gather(*tasks)


async def test_who_leaves_is_out_of_the_line(stage: Stage) -> None:
    gate, tasks = await busy(stage, 3)

    tasks.pop(2).cancel()
    await stage.until_waiting(2)
    await gate.open()
    await asyncio.gather(*tasks)

    assert stage.answered == ["first", "many 0", "many 2"]


async def test_one_that_asks_for_two_answers_takes_two_slots(
    tmp_path: Path, gates: ExitStack
) -> None:
    async with proxy(tmp_path, text(tmp_path, parallel=2)) as server:
        stage = Stage(server, tmp_path, gates)
        gate = stage.gate("first")
        tasks = [stage.ask("first", MANY, gate, n=2)]
        await gate.reached()

        tasks.append(stage.ask("second", MANY))
        await stage.until_waiting(1)

        await gate.open()
        await asyncio.gather(*tasks)


async def test_past_the_bound_of_a_model_it_is_503_and_when_to_come_again(stage: Stage) -> None:
    gate, tasks = await busy(stage, 8)

    headers = {"Authorization": f"Bearer {ONE}"}
    async with stage.server.session.post(CHAT, json=ASKED, headers=headers) as answer:
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) >= 1
        assert (await answer.json())["error"]["code"] == "server_busy"

    await gate.open()
    assert await asyncio.gather(*tasks) == [200] * 9


async def test_the_state_tells_who_waits_and_nothing_of_what_they_ask(stage: Stage) -> None:
    await stage.ask("before", MANY)
    gate, tasks = await busy(stage, 2)
    tasks.append(stage.ask("one", ONE, prompt="a secret"))
    await stage.until_waiting(3)

    state = await stage.get("/admin/state")

    (backend,) = state["backends"]
    assert (backend["in_flight"], backend["waiting"]) == (1, 3)
    assert state["queue"]["waiting"] == 3
    assert [(row["position"], row["key"]) for row in backend["line"]] == [
        (1, "one"),
        (2, "many"),
        (3, "many"),
    ]
    assert all(row["waited_s"] >= 0 for row in backend["line"])
    assert backend["line"][0].keys() == {"position", "key", "waited_s", "expected_s"}
    assert "secret" not in str(state)
    await gate.open()
    await asyncio.gather(*tasks)


@pytest.mark.llama
async def test_a_short_answer_beside_fifty_long_ones(tmp_path: Path) -> None:
    """Of llama-server itself: at most the answers that were there already are before it."""
    tiny = {"path": model(layers=4), "parallel": 2, "ctx": 1024}
    answered: list[str] = []
    async with proxy(tmp_path, policies({"tiny": tiny})) as server:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(server.url, connector=connector) as session:

            async def ask(name: str, tokens: int, headers: Mapping[str, str]) -> None:
                body = {"model": "tiny", "prompt": name, "max_tokens": tokens, "ignore_eos": True}
                async with session.post("/v1/completions", json=body, headers=headers) as answer:
                    assert answer.status == 200, await answer.text()
                    await answer.read()
                    answered.append(name)

            pool = server.app.services.pool
            long = [asyncio.create_task(ask(f"long {n}", 300, {})) for n in range(50)]
            await until(lambda: pool.queue_length == 48, "two are answered, the others wait")
            before = len(answered)
            await ask("short", 4, {"User-Agent": "editor"})
            place = answered.index("short") - before
            for task in long:
                task.cancel()
            await asyncio.gather(*long, return_exceptions=True)

    assert place <= 2


@pytest.mark.llama
async def test_where_the_worker_is_killed_nobody_in_line_is_lost(tmp_path: Path) -> None:
    tiny = {"path": model(layers=4), "parallel": 2, "ctx": 1024}
    async with proxy(tmp_path, policies({"tiny": tiny})) as server:
        pool = server.app.services.pool
        body = {"model": "tiny", "prompt": "once", "ignore_eos": True}
        await server.post("/v1/completions", body | {"max_tokens": 1})
        asked = [server.post("/v1/completions", body | {"max_tokens": 200}) for _ in range(12)]
        tasks = [asyncio.create_task(each) for each in asked]
        await until(lambda: pool.queue_length == 10, "two are answered, the others wait")

        os.kill(pid_of(pool.backends()[0].engine), signal.SIGKILL)
        answers = await asyncio.gather(*tasks)

    assert [answer["usage"]["completion_tokens"] for answer in answers] == [200] * 12


def waits(pool: Pool, count: int) -> bool:
    return pool.queue_length == count


async def test_who_comes_through_a_front_has_turns_of_his_own(
    tmp_path: Path, gates: ExitStack
) -> None:
    """By his own address: all that a front passes on comes from that one's."""
    env = {KEY_FILE_VARIABLE: str(key_file(tmp_path))}
    gated = {"engine": "command", "command": list(GATED_SLOTS), "parallel": 1}
    answered: list[str] = []
    async with proxy(tmp_path, policies({"gated": gated}), env=env) as server:

        async def ask(client: str, number: int, gate: Gate | None = None) -> None:
            headers = {KEY_HEADER: KEY, CLIENT_HEADER: f"{client} {number}"}
            body = ASKED | {"gates": [gate.path if gate else None]}
            async with server.session.post(CHAT, json=body, headers=headers) as answer:
                assert answer.status == 200, await answer.text()
                await answer.read()
            answered.append(client)

        gate = gates.enter_context(closing(Gate(tmp_path / "first")))
        asked = [asyncio.create_task(ask("10.0.0.1", 0, gate))]
        await gate.reached()
        pool = server.app.services.pool
        for number, client in enumerate(["10.0.0.1"] * 4 + ["10.0.0.2"], 1):
            asked.append(asyncio.create_task(ask(client, number)))
            await until(partial(waits, pool, number), "it waits")
        await gate.open()
        await asyncio.gather(*asked)

    assert answered.index("10.0.0.2") <= 2
