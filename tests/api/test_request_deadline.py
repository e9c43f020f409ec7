"""How long a request may take."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.commands import ASKED, GATED_SLOTS
from tests.support.gates import Gate
from tests.support.guard import until
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy

CHAT = "/v1/chat/completions"
SOON = {"X-Moe-Proxy-Timeout": "100ms"}
GATED: Any = {"engine": "command", "command": list(GATED_SLOTS), "parallel": 1}
ENDLESS: Any = {"model": "tiny", "prompt": "once", "ignore_eos": True}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Proxy]:
    async with proxy(tmp_path, policies({"gated": GATED})) as server:
        yield server


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with closing(Gate(tmp_path / "gate")) as gate:
        yield gate


def body(gate: Gate, **fields: Any) -> dict[str, Any]:
    return ASKED | {"gates": [gate.path]} | fields


@pytest.mark.parametrize(
    ("path", "error"),
    [
        (CHAT, {"type": "server_error", "code": "deadline_exceeded", "param": None}),
        ("/v1/messages", {"type": "timeout_error"}),
    ],
)
async def test_past_it_a_request_without_a_byte_is_504(
    server: Proxy, gate: Gate, path: str, error: dict[str, Any]
) -> None:
    async with server.session.post(path, json=body(gate), headers=SOON) as answer:
        told = (await answer.json())["error"]

    assert answer.status == 504
    assert told == error | {"message": "the request took longer than 0.1 s"}
    assert not any(backend.in_flight for backend in server.app.services.pool.backends())


async def test_the_policies_say_it_for_all(tmp_path: Path, gate: Gate) -> None:
    """Also for those that would name more."""
    text = policies({"gated": GATED}, server={"timeout": "100ms"})
    async with proxy(tmp_path, text) as server:
        for headers in ({}, {"X-Moe-Proxy-Timeout": "3600"}, {"X-Moe-Proxy-Timeout": "0"}):
            async with server.session.post(CHAT, json=body(gate), headers=headers) as answer:
                assert answer.status == 504


async def test_it_counts_while_a_request_waits_for_its_turn(server: Proxy, gate: Gate) -> None:
    pool = server.app.services.pool
    first = asyncio.create_task(server.post(CHAT, body(gate)))
    await gate.reached()

    async with server.session.post(CHAT, json=ASKED, headers=SOON) as answer:
        assert answer.status == 504

    assert pool.queue_length == 0
    await gate.open()
    await first


async def test_in_the_middle_of_a_stream_it_is_an_error_event(server: Proxy, gate: Gate) -> None:
    """And no end as the protocol has it: half an answer must not look like a whole one."""
    asked = ASKED | {"stream": True, "gates": [None, gate.path]}
    headers = {"X-Moe-Proxy-Timeout": "3s"}
    await server.post(CHAT, ASKED)  # it is loaded
    async with server.session.post(CHAT, json=asked, headers=headers) as answer:
        first = await answer.content.readuntil(b"\n\n")
        last = await answer.content.readuntil(b"\n\n")
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.content.read()

    assert first.strip() == b'data: {"number": 0}'
    assert b"deadline_exceeded" in last
    assert not any(backend.in_flight for backend in server.app.services.pool.backends())


@pytest.mark.parametrize("value", ["soon", "-1", "1 parsec", ""])
async def test_a_value_that_is_none_is_400_and_named(server: Proxy, value: str) -> None:
    headers = {"X-Moe-Proxy-Timeout": value}
    async with server.session.post(CHAT, json=ASKED, headers=headers) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["param"] == "X-Moe-Proxy-Timeout"


async def test_who_has_enough_time_is_answered(server: Proxy) -> None:
    headers = {"X-Moe-Proxy-Timeout": "3600"}
    async with server.session.post(CHAT, json=ASKED, headers=headers) as answer:
        assert answer.status == 200


@pytest.mark.llama
@pytest.mark.parametrize("path", ["/v1/completions", "/api/generate"])
async def test_the_generation_ends_in_the_worker(tmp_path: Path, path: str) -> None:
    tiny = {"path": model(layers=4), "parallel": 1, "ctx": 8192}
    asked = ENDLESS | {"stream": True, "max_tokens": -1, "options": {"num_predict": -1}}
    asked = asked if path == "/api/generate" else asked | {"options": {}}
    async with proxy(tmp_path, policies({"tiny": tiny})) as server:
        await server.post("/v1/completions", ENDLESS | {"max_tokens": 1})
        async with server.session.post(path, json=asked, headers=SOON) as answer:
            text = b""
            with contextlib.suppress(aiohttp.ClientPayloadError):  # as OpenAI's stream breaks off
                while piece := await answer.content.readany():
                    text += piece

        async def idle() -> bool:
            slots = await server.get("/slots?model=tiny")
            return not any(slot["is_processing"] for slot in slots)

        await until(idle, "nothing is computed for it any more")

    assert b"longer than 0.1 s" in text[-300:]
