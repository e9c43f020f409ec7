"""Requests that would kill or hang a worker, and with it all answers of its model."""

import asyncio
import io
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.dialect import limits
from tests.support.commands import ASKED, GATED
from tests.support.gates import Gate
from tests.support.guard import until
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy
from tests.support.serving import pid_of

CHAT = "/v1/chat/completions"
ASK: Any = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
DEEP = "[" * 100_000 + "]" * 100_000


def schema(count: int) -> dict[str, Any]:
    names = [f"p{number}" for number in range(count)]
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}}


# Each kills llama-server as it is, or has it compute for minutes; some only where the model's chat
# template knows tools.
POISON: list[tuple[str, Any]] = [
    (CHAT, {"grammar": "root ::= " + "(" * 20_000}),
    (CHAT, {"grammar": "root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000}),
    ("/v1/completions", {"prompt": "a", "grammar": "root ::= " + "(" * 20_000}),
    ("/completion", {"prompt": "a", "grammar": "root ::= " + "(" * 20_000}),
    ("/upstream/m/completion", {"prompt": "a", "grammar": "root ::= " + "(" * 20_000}),
    (
        "/completion",
        {
            "prompt": "a",
            "grammar": "root ::= r0\n"
            + "".join(f"r{n} ::= r{n + 1}\n" for n in range(200_000))
            + 'r200000 ::= "a"',
        },
    ),
    (
        "/completion",
        {
            "prompt": "a",
            "grammar": 'root ::= "a"',
            "grammar_lazy": True,
            "grammar_triggers": [{"type": 3, "value": "(" * 20_000}],
        },
    ),
    (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"schema": schema(10_000)}}}),
    (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"schema": schema(2_000)}}}),
    ("/api/chat", {"format": schema(2_000)}),
    ("/api/generate", {"prompt": "a", "format": schema(2_000)}),
    ("/v1/messages", {"tools": [{"name": "f", "input_schema": schema(2_000)}]}),
    ("/v1/responses", {"input": "a", "text": {"format": {"schema": schema(2_000)}}}),
    (CHAT, DEEP),
    ("/upstream/m" + CHAT, DEEP),
    ("/api/chat", DEEP),
    ("/v1/messages", DEEP),
]


@pytest.mark.llama
async def test_what_would_kill_a_worker_is_refused_and_nobody_notices(tmp_path: Path) -> None:
    async with proxy(tmp_path, policies({"m": {"path": model(layers=4), "ctx": 2048}})) as server:
        await server.post("/admin/models/m/load")
        pid = (await server.backend("m"))["pid"]
        answering = asyncio.create_task(
            server.post("/completion", {"model": "m", "prompt": "a", "n_predict": 1500})
        )
        for path, more in POISON:
            deep = isinstance(more, str)
            text = json.dumps(ASK | ({"tools": "DEEP"} if deep else more))
            data = io.BytesIO(text.replace('"DEEP"', more if deep else "").encode())
            async with server.session.post(path, data=data) as refused:
                told = await refused.json()
                assert refused.status == 400, (path, told)
                assert "error" in told
                assert ("type" in told) == (path == "/v1/messages")
        assert (await answering)["tokens_predicted"] > 0
        backend = await server.backend("m")
        assert (backend["pid"], backend["failures"]) == (pid, 0)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Proxy]:
    async with proxy(
        tmp_path, policies({"gated": {"engine": "command", "command": list(GATED)}})
    ) as server:
        yield server


@pytest.fixture
def gates(tmp_path: Path) -> Iterator[list[Gate]]:
    gates = [Gate(tmp_path / f"gate{number}") for number in range(2)]
    yield gates
    for gate in gates:
        gate.close()


async def lines(answer: aiohttp.ClientResponse) -> list[bytes]:
    return [line async for line in answer.content if line.strip()]


def made(server: Proxy) -> int:
    """How many workers were started so far."""
    return sum(e.kind == "backend_starting" for e in server.app.services.events.since(0))


async def until_gone(server: Proxy, workers: int) -> None:
    """Until so many have ended."""

    def ended() -> bool:
        events = server.app.services.events.since(0)
        return sum(e.kind == "backend_gone" for e in events) == workers

    await until(ended, "their end is known")


async def test_a_request_over_which_workers_crash_kills_two_and_no_more(server: Proxy) -> None:
    """However often its client tries, and in whichever protocol's shape; others are served."""
    poison = ASKED | {"dies_at": 0}
    for _ in range(5):
        async with server.session.post(CHAT, json=poison) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]["code"] == "request_kills_workers"
        assert made(server) == 2

    # The model failed too: it may be that it dies of everything.
    (backend,) = (await server.get("/admin/state"))["backends"]
    assert (backend["state"], backend["failures"]) == ("gone", 1)
    await server.post("/admin/models/gated/load")
    async with server.session.post(CHAT, json=ASKED) as answer:
        assert await lines(answer)
    assert (await server.backend("gated"))["failures"] == 0


async def test_the_only_one_without_a_byte_is_not_asked_again_while_others_stream(
    server: Proxy, gates: list[Gate]
) -> None:
    """It is asked when nobody does, and others whose answers broke are not to blame."""
    streaming = server.session.post(
        CHAT, json=ASKED | {"stream": True, "gates": [None, gates[0].path]}
    )
    first = await streaming.__aenter__()
    await gates[0].reached()

    poison = ASKED | {"dies_at": 0, "gates": [gates[1].path]}
    asked = asyncio.create_task(server.session.post(CHAT, json=poison).__aenter__())
    await gates[1].reached()
    # The next worker is there, and in use, before the crash is judged.
    pool = server.app.services.pool
    (old,) = pool.backends()
    os.kill(pid_of(old.engine), 6)
    gates[0].close()
    await until(lambda: old.state == "gone", "it crashed")
    again = await server.session.post(
        CHAT, json=ASKED | {"stream": True, "gates": [None, gates[0].path]}
    ).__aenter__()
    await gates[0].reached()
    gates[1].close()

    answer = await asked
    if answer.status == 503:
        assert int(answer.headers["Retry-After"]) > 0
        assert "others use the next one" in (await answer.json())["error"]["message"]
    assert answer.status == 503
    await gates[0].open()
    assert len(await lines(again)) == 3
    assert made(server) == 2
    first.close()


async def test_a_crash_in_mid_answer_counts_too(server: Proxy) -> None:
    poison = ASKED | {"stream": True, "dies_at": 1}
    for died in (1, 2):
        async with server.session.post(CHAT, json=poison) as answer:
            assert answer.status == 200
            with pytest.raises(aiohttp.ClientError):
                await lines(answer)
        await until_gone(server, died)
    async with server.session.post(CHAT, json=poison) as answer:
        assert answer.status == 400
    assert made(server) == 2


@pytest.mark.llama
async def test_what_no_bound_keeps_from_a_worker_kills_two_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama-server itself, its bounds taken away."""
    monkeypatch.setattr(limits, "MOST_IN_GRAMMAR", ())
    async with proxy(tmp_path, policies({"m": {"path": model(layers=4), "ctx": 512}})) as server:
        await server.post(CHAT, ASK)
        for _ in range(3):
            told = await server.post(CHAT, ASK | POISON[0][1], status=400)
            assert told["error"]["code"] == "request_kills_workers"
        assert made(server) == 2

        await server.post(CHAT, ASK)
        assert made(server) == 3
