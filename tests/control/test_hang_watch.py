"""Workers that hang, whatever they are at: real ones, stopped by SIGSTOP, or stuck in a device that
does not answer. Whoever has not got a byte is answered by another one."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from proxy.pool.state import Backend
from tests.support.commands import GATED, LLAMA_SERVER
from tests.support.gates import Gate
from tests.support.guard import until
from tests.support.llama import rpc_server
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy

pytestmark = pytest.mark.llama

# Long enough for a tiny model's step on a machine that is busy with other things. Were it not, the
# worker would be ended although it does not hang, and a test would still come to its end.
SOON = {"hang_timeout": "2s"}
LATE = {"hang_timeout": "1h"}
LAYERS = 4
COMPLETIONS = "/v1/completions"
SHORT: dict[str, Any] = {"model": "m", "prompt": "the quick brown fox", "max_tokens": 1}
# Long enough to be met in the middle, short enough to be done again.
LONG = SHORT | {"max_tokens": 2000, "ignore_eos": True}
ENDLESS = SHORT | {"max_tokens": 100_000, "ignore_eos": True, "stream": True}


@asynccontextmanager
async def served(folder: Path, *, policy: dict[str, Any] = SOON, **m: Any) -> AsyncIterator[Proxy]:
    usual = {"path": model(layers=LAYERS), "ctx": 4096, "parallel": 2}
    text = policies({"m": usual | m}, defaults=policy)
    async with proxy(folder, text) as there:
        try:
            yield there
        finally:
            for backend in there.app.services.pool.backends():
                send(backend, signal.SIGCONT)


def send(backend: Backend, number: signal.Signals) -> None:
    if backend.engine.pid:
        try:
            os.kill(backend.engine.pid, number)
        except ProcessLookupError:
            pass


def backend_of(there: Proxy) -> Backend:
    (backend,) = there.app.services.pool.backends()
    return backend


async def in_use(there: Proxy, model: str = "m") -> Backend:
    """The backend, once a request has it."""

    def found() -> list[Backend]:
        backends = there.app.services.pool.backends()
        return [b for b in backends if b.in_flight == 1 and b.options.model == model]

    (backend,) = await until(found, "it has the request")
    assert isinstance(backend, Backend)
    return backend


@asynccontextmanager
async def unread(there: Proxy, body: dict[str, Any]) -> AsyncIterator[None]:
    """A client that asks, and never reads."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop, url = asyncio.get_running_loop(), URL(there.url)
        await loop.sock_connect(client, (url.host, url.port))
        data = json.dumps(body).encode()
        head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: {len(data)}"
        await loop.sock_sendall(client, head.encode() + b"\r\n\r\n" + data)
        yield


async def ask(there: Proxy, body: dict[str, Any] = SHORT, path: str = COMPLETIONS) -> Any:
    return await there.post(path, body)


async def test_one_that_nobody_uses_is_ended_and_says_why(tmp_path: Path) -> None:
    async with served(tmp_path) as there:
        await ask(there)
        old = backend_of(there)
        send(old, signal.SIGSTOP)

        await until(lambda: old.state == "gone", "it is ended")

        (told,) = (await there.get("/admin/state"))["backends"]
        assert (told["state"], told["pid"]) == ("gone", None)
        assert "the worker hangs: it has not answered the proxy for" in told["last_error"]
        events = (event.to_json() for event in there.app.services.events.since(0))
        (event,) = (event for event in events if event["kind"] == "backend_stopping")
        assert event["why"] == told["last_error"]
        await ask(there)
        new = backend_of(there)
        assert (new.id, new.generation, new.last_error) == (old.id, old.generation + 1, None)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETIONS, LONG),
        (COMPLETIONS, LONG | {"prompt": "the quick brown fox " * 500, "max_tokens": 1}),
        (COMPLETIONS, SHORT | {"moe_cpu_layers": 2}),
        ("/api/generate", {"model": "m", "prompt": "hi", "options": {"num_predict": 300}}),
    ],
    ids=["answers", "reads a prompt", "is asked for a split", "ollama"],
)
async def test_a_request_without_a_byte_is_answered_by_another_one(
    path: str, body: dict[str, Any], tmp_path: Path
) -> None:
    async with rpc_server() as rpc, served(tmp_path, rpc=[rpc]) as there:
        await ask(there)
        old = backend_of(there)
        if "max_tokens" not in body or body["max_tokens"] == 1:
            send(old, signal.SIGSTOP)  # it is asked when it has stopped already
        asked = asyncio.ensure_future(ask(there, body | {"stream": False}, path))
        await in_use(there)
        send(old, signal.SIGSTOP)

        await asked

        assert backend_of(there).generation == old.generation + 1


async def test_one_in_the_middle_of_its_answer_gets_an_error(tmp_path: Path) -> None:
    async with served(tmp_path) as there:
        async with there.session.post(COMPLETIONS, json=ENDLESS) as answer:
            await answer.content.readline()
            send(backend_of(there), signal.SIGSTOP)
            lines: list[bytes] = []
            with pytest.raises(aiohttp.ClientPayloadError):
                await read(answer, lines)
        error = json.loads(lines[-1].removeprefix(b"data: "))["error"]
        assert "the worker hangs" in error["message"]

        await ask(there)


async def test_who_asks_while_it_hangs_gets_another_one_however_many_do(tmp_path: Path) -> None:
    """More than llama-server lets wait for a connection."""
    async with served(tmp_path) as there:
        await ask(there)
        old = backend_of(there)
        send(old, signal.SIGSTOP)

        await asyncio.gather(*(ask(there) for _ in range(30)))

        assert backend_of(there).generation == old.generation + 1


@pytest.mark.parametrize("listens", [False, True])
async def test_one_that_is_stopped_while_it_loads(listens: bool, tmp_path: Path) -> None:
    async with rpc_server() as rpc, served(tmp_path, rpc=[rpc]) as there:
        os.kill(rpc.pid, signal.SIGSTOP)  # so that its load takes until the test goes on
        asked = asyncio.ensure_future(ask(there))
        pool = there.app.services.pool

        async def loads() -> bool:
            folder = Path(backend_of(there).engine.address.socket or "").parent
            begun = backend_of(there).engine.pid is not None
            return begun and (not listens or any(folder.glob("control")))

        await until(lambda: pool.backends(), "it begins")
        await until(loads, "it loads")
        old = backend_of(there)
        send(old, signal.SIGSTOP)
        await until(lambda: old.state == "stopping", "it is to end")
        os.kill(rpc.pid, signal.SIGCONT)

        await asked

        assert backend_of(there).generation == old.generation + 1


async def test_one_whose_device_does_not_answer_in_the_middle_of_a_step(tmp_path: Path) -> None:
    """Its control socket answers all the while."""
    async with rpc_server() as rpc, served(tmp_path, rpc=[rpc], moe_cpu_layers="none") as there:
        async with there.session.post(COMPLETIONS, json=ENDLESS) as answer:
            await answer.content.readline()
            old = backend_of(there)
            os.kill(rpc.pid, signal.SIGSTOP)
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.content.read()
            os.kill(rpc.pid, signal.SIGCONT)
        assert old.fault is not None
        assert "it is busy, and nothing went on" in old.fault

        await ask(there)


@pytest.mark.parametrize("stopped", ["worker", "device"])
async def test_one_that_hangs_in_the_middle_of_a_move(stopped: str, tmp_path: Path) -> None:
    async with rpc_server() as rpc, served(tmp_path, rpc=[rpc], moe_cpu_layers="full") as there:
        await ask(there)
        old = backend_of(there)
        os.kill(rpc.pid, signal.SIGSTOP)
        asked = asyncio.ensure_future(ask(there, SHORT | {"moe_cpu_layers": 0}))
        await in_use(there)
        if stopped == "worker":
            send(old, signal.SIGSTOP)
        await until(lambda: old.fault, "it is taken to hang")
        os.kill(rpc.pid, signal.SIGCONT)

        await asked

        assert old.engine.pid != backend_of(there).engine.pid
        assert backend_of(there).engine.known().moe_cpu_layers == 0


@pytest.mark.parametrize("how", ["unload", "drain"])
async def test_it_can_be_got_rid_of_while_it_hangs(how: str, tmp_path: Path) -> None:
    async with served(tmp_path) as there:
        pool = there.app.services.pool
        async with there.session.post(COMPLETIONS, json=ENDLESS) as answer:
            await answer.content.readline()
            send(backend_of(there), signal.SIGSTOP)

            await (pool.unload("m") if how == "unload" else pool.drain(100.0))

        assert [b for b in pool.backends() if b.state != "gone"] == []


@pytest.mark.parametrize("at", ["idle", "loading", "moving"])
async def test_an_unload_ends_although_the_worker_is_stopped(at: str, tmp_path: Path) -> None:
    async with rpc_server() as rpc, served(tmp_path, rpc=[rpc], moe_cpu_layers="full") as there:
        pool = there.app.services.pool
        if at != "loading":
            await ask(there)
        if at != "idle":
            os.kill(rpc.pid, signal.SIGSTOP)
        body = SHORT | {"moe_cpu_layers": 0} if at == "moving" else SHORT
        asked = None if at == "idle" else asyncio.ensure_future(ask(there, body))
        await until(lambda: [b for b in pool.backends() if b.engine.pid], "it is there")
        old = backend_of(there)
        await until(lambda: at == "idle" or old.in_flight or old.waiting, "somebody wants it")
        if at == "loading":
            folder = Path(old.engine.address.socket or "").parent
            await until(lambda: any(folder.glob("control")), "it loads")
        send(old, signal.SIGSTOP)

        unload = asyncio.ensure_future(pool.unload(old.id))
        await until(lambda: old.state in ("stopping", "gone"), "it is to end")
        os.kill(rpc.pid, signal.SIGCONT)

        assert await unload == 1
        assert old.state == "gone"
        if asked is not None:
            await asked


async def test_one_that_goes_on_again_in_time_is_left_alone(tmp_path: Path) -> None:
    """While it is silent, nothing is claimed of it."""
    async with served(tmp_path, policy=LATE) as there:
        asked = asyncio.ensure_future(ask(there, LONG))
        backend = await in_use(there)
        pid = backend.engine.pid

        async def told(answers: bool) -> bool:
            (state,) = (await there.get("/admin/state"))["backends"]
            return bool(state["answers"] == answers and (state["settled"] is None) == (not answers))

        send(backend, signal.SIGSTOP)
        await until(lambda: told(False), "it is silent")
        send(backend, signal.SIGCONT)
        await until(lambda: told(True), "it answers")

        await asked
        assert (backend.engine.pid, backend.generation) == (pid, 1)


async def test_a_client_that_does_not_read_is_no_hang(tmp_path: Path) -> None:
    """Its answer is complete, and waits to be taken: there is nothing that could go on."""
    usual = {"path": model(layers=LAYERS), "ctx": 4096, "parallel": 1}
    models = {"m": usual | SOON, "n": usual | {"hang_timeout": "6s"}}
    async with proxy(tmp_path, policies(models)) as there:
        await ask(there, SHORT | {"model": "n"})
        (other,) = there.app.services.pool.backends()
        large = ENDLESS | {"max_tokens": 1000, "n_probs": 200}  # more than all buffers hold
        async with unread(there, large):
            await in_use(there, model="m")
            await ask(there)  # there is one slot: it has done all of it
            (backend,) = (b for b in there.app.services.pool.backends() if b is not other)
            assert backend.in_flight == 1
            send(other, signal.SIGSTOP)

            await until(lambda: other.fault, "this one has hung for longer than the other one may")

            assert backend.fault is None


@pytest.mark.parametrize("server", ["gated", "llama-server"])
async def test_a_foreign_server_that_hangs(server: str, tmp_path: Path) -> None:
    command = list(GATED if server == "gated" else LLAMA_SERVER)
    gate = Gate(tmp_path / "gate")
    async with served(tmp_path, engine="command", command=command, moe_cpu_layers=4) as there:
        await ask(there)
        old = backend_of(there)
        asked = asyncio.ensure_future(ask(there, LONG | {"gates": [gate.path]}))
        await in_use(there)
        send(old, signal.SIGSTOP)
        await until(lambda: old.fault, "it is taken to hang")
        if server == "gated":
            await gate.open()

        await asked

        assert backend_of(there).generation == old.generation + 1
    gate.close()


async def test_garbage_and_lost_files_harm_nobody(tmp_path: Path) -> None:
    async with served(tmp_path) as there:
        await ask(there)
        backend = backend_of(there)
        server = Path(backend.engine.address.socket or "")
        control = server.with_name("control")
        for path in (server, control):
            for garbage in (b"\x00\xff\n" * 100, b"{" * (1 << 21), b'{"id": "x", "op": 7}\n'):
                reader, writer = await asyncio.open_unix_connection(str(path))
                writer.write(garbage)
                writer.write_eof()
                try:
                    await reader.read()
                except ConnectionError:
                    pass
                writer.close()
        control.unlink()

        await ask(there)
        await until(lambda: there.app.services.hangs.answers(backend), "it answers")
        assert (backend.state, backend.generation) == ("ready", 1)


async def test_a_control_connection_that_is_lost_is_the_end_of_a_worker(tmp_path: Path) -> None:
    async with served(tmp_path, policy=LATE) as there:
        await ask(there)
        old = backend_of(there)
        lose_control(old)

        await until(lambda: old.state == "gone", "it is ended")

        assert old.last_error is not None
        assert "nobody can reach it any more" in old.last_error
        await ask(there)


def lose_control(backend: Backend) -> None:
    engine: Any = backend.engine
    engine._client.close()


async def read(answer: aiohttp.ClientResponse, lines: list[bytes]) -> None:
    async for line in answer.content:
        lines += [line] if line.strip() else []
