"""Answers that end before they should: the worker dies, or the client leaves. Small servers that
wait at gates stand in for llama-server, where the moment counts."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import openai
import pytest

from proxy.pool.state import Backend
from proxy.upstream.connection import connect
from tests.api.conftest import MODEL
from tests.support.commands import ASKED, GATED
from tests.support.gates import Gate
from tests.support.guard import until
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy
from tests.support.serving import pid_of

CHAT = "/v1/chat/completions"
EVENTS = [f'data: {{"number": {number}}}'.encode() for number in range(3)]
LONG: Any = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
ENDLESS: Any = {"ignore_eos": True}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Proxy]:
    text = policies({"gated": {"engine": "command", "command": list(GATED)}})
    async with proxy(tmp_path, text) as server:
        yield server


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.close()


def kill(backend: Backend) -> None:
    os.kill(pid_of(backend.engine), signal.SIGKILL)


async def lines(answer: aiohttp.ClientResponse) -> list[bytes]:
    return [line.strip() async for line in answer.content if line.strip()]


async def test_a_worker_that_dies_after_a_streams_head_and_before_its_first_event_costs_no_request(
    server: Proxy, gate: Gate
) -> None:
    async def ask() -> list[bytes]:
        body = ASKED | {"stream": True, "gates": [gate.path]}
        async with server.session.post(CHAT, json=body) as answer:
            return await lines(answer)

    asked = asyncio.create_task(ask())
    await gate.reached()
    pool = server.app.services.pool
    kill(pool.backends()[0])
    gate.close()
    await until(lambda: pool.backends()[0].generation > 1, "it is asked of another one")
    await gate.open()

    assert await asked == EVENTS


async def test_a_client_that_leaves_before_the_first_event_ends_its_generation(
    server: Proxy, gate: Gate
) -> None:
    body = ASKED | {"stream": True, "gates": [gate.path]}
    asked = asyncio.create_task(server.session.post(CHAT, json=body).__aenter__())
    await gate.reached()
    (backend,) = server.app.services.pool.backends()
    assert backend.in_flight == 1

    asked.cancel()

    async def free() -> bool:
        return backend.in_flight == 0

    await until(free, "its lease is back")


async def test_a_stream_that_breaks_ends_with_an_error_and_without_its_end(
    server: Proxy, gate: Gate
) -> None:
    body = ASKED | {"stream": True, "gates": [None, gate.path]}
    async with server.session.post(CHAT, json=body) as answer:
        got = [await answer.content.readline(), await answer.content.readline()]
        await gate.reached()
        kill(server.app.services.pool.backends()[0])
        told = await answer.content.readline()
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.content.read()

    assert got == [EVENTS[0] + b"\n", b"\n"]
    error = json.loads(told.removeprefix(b"data: "))["error"]
    assert error["message"].startswith("the engine went away")
    assert error["type"] == "server_error"


async def test_a_worker_that_lives_and_takes_no_connections_costs_no_request(
    server: Proxy,
) -> None:
    async def refused() -> bool:
        try:
            (await connect(old.engine.address)).abort()
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:
            pass  # it is closing just now
        return False

    await server.post(CHAT, ASKED)
    (old,) = server.app.services.pool.backends()
    os.kill(pid_of(old.engine), signal.SIGUSR1)
    await until(refused, "nobody listens")

    await server.post(CHAT, ASKED)

    (new,) = server.app.services.pool.backends()
    assert (new.name != old.name, new.state) == (True, "ready")


@pytest.mark.llama
async def test_a_worker_whose_socket_is_gone_costs_no_request(tmp_path: Path) -> None:
    tiny = {"path": model(layers=4), "ctx": 4096}
    async with proxy(tmp_path, policies({MODEL: tiny})) as server:
        await server.post(CHAT, LONG | {"max_tokens": 1})
        services = server.app.services
        (old,) = services.pool.backends()
        Path(old.engine.address.socket or "").unlink()
        services.warm.close()

        await server.post(CHAT, LONG | {"max_tokens": 1})

        (new,) = services.pool.backends()
        assert new.name != old.name
        assert new.state == "ready"


@pytest.mark.llama
async def test_a_worker_that_is_told_to_end_costs_no_request(tmp_path: Path) -> None:
    """Not by us. While it ends it would take requests in, and answer none: asked at several moments
    of that, and while it answers, each is answered by another one."""
    tiny = {"path": model(layers=4), "ctx": 4096}
    async with proxy(tmp_path, policies({MODEL: tiny})) as server:
        pool = server.app.services.pool
        await server.post(CHAT, LONG | {"max_tokens": 1})
        for after_s in (0.0, 0.005, 0.02, 0.05, 0.1):
            (old,) = pool.backends()
            os.kill(pid_of(old.engine), signal.SIGTERM)
            await asyncio.sleep(after_s)

            asked = [server.post(CHAT, LONG | {"max_tokens": n}) for n in (1, 2, 50)]
            await asyncio.gather(*asked)

            (new,) = pool.backends()
            assert new.name != old.name


@pytest.mark.llama
async def test_who_leaves_with_the_whole_answer_is_not_logged_as_one_who_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = {"path": model(layers=4), "ctx": 512}
    after = asyncio.Event()

    async def renew(*_: object) -> None:
        after.set()
        await asyncio.Event().wait()

    async with proxy(tmp_path, policies({MODEL: tiny})) as server:
        await server.post(CHAT, LONG | {"max_tokens": 1})
        monkeypatch.setattr(type(server.app.services.warm), "renew", renew)
        async with aiohttp.ClientSession(server.url) as leaving:
            async with leaving.post(CHAT, json=LONG | {"max_tokens": 1}) as answer:
                await answer.read()
            await after.wait()

        async def counted() -> int:
            async with server.session.get("/metrics") as told:
                lines = [x for x in (await told.text()).splitlines() if "requests_total{" in x]
            assert not any('status="499"' in line for line in lines), lines
            (line,) = (line for line in lines if CHAT in line)
            return int(float(line.split()[-1]))

        async def both() -> bool:
            return await counted() == 2

        await until(both, "both are counted as answered")


@pytest.mark.llama
async def test_one_that_is_told_to_end_while_it_answers_costs_no_request(tmp_path: Path) -> None:
    tiny = {"path": model(layers=4), "ctx": 4096}
    async with proxy(tmp_path, policies({MODEL: tiny})) as server:
        pool = server.app.services.pool
        await server.post(CHAT, LONG | {"max_tokens": 1})
        (old,) = pool.backends()
        asked = asyncio.ensure_future(server.post(CHAT, LONG | ENDLESS | {"max_tokens": 500}))
        await until(lambda: old.in_flight, "it is at it")
        os.kill(pid_of(old.engine), signal.SIGTERM)

        await asked

        (new,) = pool.backends()
        assert new.name != old.name


@pytest.mark.llama
@pytest.mark.parametrize("client", ["chat", "completions", "responses", "anthropic"])
async def test_official_clients_raise_where_a_worker_dies_in_mid_answer(
    tmp_path: Path, client: str
) -> None:
    tiny = {"path": model(layers=4), "ctx": 4096}
    async with (
        proxy(tmp_path, policies({MODEL: tiny})) as server,
        openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as ours,
        anthropic.AsyncAnthropic(base_url=server.url, api_key="x", max_retries=0) as theirs,
    ):
        stream: Any
        match client:
            case "chat":
                stream = await ours.chat.completions.create(
                    **LONG, stream=True, max_tokens=4000, extra_body=ENDLESS
                )
            case "completions":
                stream = await ours.completions.create(
                    model=MODEL, prompt="hi", stream=True, max_tokens=4000, extra_body=ENDLESS
                )
            case "responses":
                stream = await ours.responses.create(
                    model=MODEL, input="hi", stream=True, extra_body=ENDLESS
                )
            case _:
                stream = await theirs.messages.create(
                    **LONG, stream=True, max_tokens=4000, extra_body=ENDLESS
                )
        await anext(stream)
        kill(server.app.services.pool.backends()[0])
        with pytest.raises((openai.APIError, anthropic.APIError), match="engine went away"):
            async for _ in stream:
                pass
