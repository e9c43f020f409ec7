"""How an answer begins where that takes long: with comments, and a head that promises nothing."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import openai
import pytest

from tests.support.commands import ASKED, GATED_SLOTS
from tests.support.gates import Gate
from tests.support.guard import until
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy
from tests.support.serving import pid_of

CHAT = "/v1/chat/completions"
EVENTS = [f'data: {{"number": {number}}}'.encode() for number in range(3)]
LONG: Any = {
    **{"model": "tiny", "prompt": "once", "max_tokens": -1, "ignore_eos": True, "stream": True}
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comments begin at once, and follow each other closely."""
    monkeypatch.setattr("proxy.api.reply.PATIENCE_S", 0.0)
    monkeypatch.setattr("proxy.api.reply.EVERY_S", 0.01)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Proxy]:
    gated = {"engine": "command", "command": list(GATED_SLOTS), "parallel": 1}
    async with proxy(tmp_path, policies({"gated": gated})) as server:
        yield server


@pytest.fixture
def gates(tmp_path: Path) -> Iterator[list[Gate]]:
    with ExitStack() as stack:
        yield [stack.enter_context(closing(Gate(tmp_path / f"gate{n}"))) for n in range(2)]


async def stream(server: Proxy, *gates: Gate, path: str = CHAT) -> tuple[int, list[bytes]]:
    """The status and the lines of a stream."""
    body = ASKED | {"stream": True, "gates": [gate.path for gate in gates]}
    async with server.session.post(path, json=body) as answer:
        return answer.status, [line.strip() async for line in answer.content if line.strip()]


async def test_who_waits_for_its_turn_is_told_its_position_until_its_answer_begins(
    server: Proxy, gates: list[Gate]
) -> None:
    first = asyncio.create_task(stream(server, gates[0]))
    await gates[0].reached()
    body = ASKED | {"stream": True}

    async with server.session.post(CHAT, json=body) as second:
        async for line in second.content:
            if line == b": waiting, position 1\n":
                break
        await gates[0].open()
        rest = [line.strip() async for line in second.content if line.strip()]

    assert second.status == 200
    assert second.headers["Content-Type"] == "text/event-stream"
    assert [line for line in rest if not line.startswith(b":")] == EVENTS
    assert rest[-3:] == EVENTS, "no comment is between two events"
    await first


async def test_only_streams_of_protocols_that_know_comments_have_any(
    server: Proxy, gates: list[Gate]
) -> None:
    first = asyncio.create_task(stream(server, gates[0]))
    await gates[0].reached()

    native = asyncio.create_task(stream(server, path="/completion"))
    whole = asyncio.create_task(server.post(CHAT, ASKED))
    await until(lambda: server.app.services.pool.queue_length == 2, "both wait")
    commented = asyncio.create_task(stream(server))
    await until(lambda: server.app.services.pool.queue_length == 3, "the third too")
    await gates[0].open()

    assert await native == (200, EVENTS)
    assert not (await whole).startswith(":")
    assert any(line.startswith(b": ") for line in (await commented)[1])
    await first


async def test_a_worker_that_dies_before_the_first_event_costs_no_request(
    server: Proxy, gates: list[Gate]
) -> None:
    """An engine's own sign of life is none."""
    body = ASKED | {"stream": True, "gates": [gates[0].path], "says": ":\n\n: a prompt\n\n"}
    pool = server.app.services.pool
    async with server.session.post(CHAT, json=body) as answer:
        assert (await answer.content.readline()).startswith(b": ")
        await gates[0].reached()
        os.kill(pid_of(pool.backends()[0].engine), signal.SIGKILL)
        gates[0].close()
        await until(lambda: pool.backends()[0].generation > 1, "it is asked of another one")
        await gates[0].open()
        rest = [line.strip() async for line in answer.content if line.strip()]

    assert rest[-3:] == EVENTS
    assert not any(line == b":" for line in rest)


async def test_an_anthropic_stream_has_pings_until_it_begins(
    server: Proxy, gates: list[Gate]
) -> None:
    first = asyncio.create_task(stream(server, gates[0]))
    await gates[0].reached()
    body = ASKED | {"stream": True, "max_tokens": 5}

    async with server.session.post("/v1/messages", json=body) as second:
        while await second.content.readline() != b": waiting, position 1\n":
            pass
        told = await second.content.readuntil(b"\n\n")

    assert told == b'event: ping\ndata: {"type": "ping"}\n\n'
    await gates[0].open()
    await first


async def test_who_waits_for_a_model_is_told_that_it_loads(
    tmp_path: Path, gates: list[Gate]
) -> None:
    slow = {"engine": "command", "command": [*GATED_SLOTS, "--hold-load", gates[0].path]}
    async with (
        proxy(tmp_path, policies({"gated": slow})) as server,
        server.session.post(CHAT, json=ASKED | {"stream": True}) as answer,
    ):
        while await answer.content.readline() != b": waiting, the model is loading\n":
            pass
        await gates[0].open()
        rest = [line.strip() async for line in answer.content if line.strip()]

    assert rest[-3:] == EVENTS


async def test_a_stream_that_goes_on_in_silence_has_signs_of_life_between_its_events(
    server: Proxy, gates: list[Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.api.reply.QUIET_S", 0.01)
    await server.apply(
        policies(
            {"gated": {"engine": "command", "command": list(GATED_SLOTS), "parallel": 2}},
        )
    )
    cut = ASKED | {"stream": True, "gates": [None, gates[0].path], "cut": True}
    whole = ASKED | {"stream": True, "gates": [None, gates[1].path]}
    async with (
        server.session.post(CHAT, json=cut) as first,
        server.session.post(CHAT, json=whole) as second,
    ):
        await gates[0].reached()
        for _ in range(5):  # the other one has been looked at as often
            while await second.content.readline() != b":\n":
                pass
        await gates[0].open()
        await gates[1].open()
        halved = [line.strip() async for line in first.content if line.strip()]
        rest = [line.strip() async for line in second.content if line.strip()]

    assert [line for line in halved if not line.startswith(b":")] == EVENTS
    assert [line for line in rest if not line.startswith(b":")] == EVENTS[1:]


async def test_what_has_signs_of_life_ends_by_an_error_as_it_would_without(
    server: Proxy, gates: list[Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.api.reply.QUIET_S", 0.01)
    body = ASKED | {"stream": True, "gates": [None, None, gates[0].path]}
    async with server.session.post(CHAT, json=body) as answer:
        while await answer.content.readline() != b":\n":
            pass
        await gates[0].reached()
        os.kill(pid_of(server.app.services.pool.backends()[0].engine), signal.SIGKILL)
        told = [line async for line in _until_broken(answer)]

    assert json.loads(told[-1].removeprefix(b"data: "))["error"]["code"] == "backend_error"


async def _until_broken(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The lines that are no blanks."""
    with suppress(aiohttp.ClientPayloadError):
        async for line in answer.content:
            if line.strip():
                yield line


async def test_an_error_that_comes_after_comments_is_an_event_and_the_end(tmp_path: Path) -> None:
    gone = {"engine": "command", "command": ["false", "{port}"]}
    async with (
        proxy(tmp_path, policies({"gone": gone})) as server,
        server.session.post(CHAT, json=ASKED | {"model": "gone", "stream": True}) as answer,
    ):
        lines = [line.strip() async for line in answer.content if line.strip()]

    assert answer.status == 200
    assert lines[0].startswith(b": waiting")
    assert lines[-1].startswith(b"data: ")
    assert json.loads(lines[-1][6:])["error"]["code"] == "model_load_failed"


async def test_an_error_that_comes_before_has_its_status(
    server: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.api.reply.PATIENCE_S", 3600.0)
    body = ASKED | {"stream": True}

    async with server.session.post("/v1/chat/completions", json=body | {"model": "no"}) as answer:
        assert answer.status == 404


@pytest.mark.llama
@pytest.mark.parametrize("client", ["chat", "completions", "responses", "anthropic"])
async def test_official_clients_take_no_notice_of_comments(tmp_path: Path, client: str) -> None:
    """And raise what is wrong: here, that the prompt is too long."""
    tiny = {"path": model(layers=2), "parallel": 1, "ctx": 4096}
    async with (
        proxy(tmp_path, policies({"tiny": tiny})) as server,
        # Made before: that takes them as long as the answer of a small model.
        openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0) as openais,
        anthropic.AsyncAnthropic(base_url=server.url, api_key="-", max_retries=0) as anthropics,
    ):

        async def ask(prompt: str) -> int:
            return await _ask(client, openais, anthropics, prompt)

        pool = server.app.services.pool
        async with server.session.post("/v1/completions", json=LONG) as busy:
            await busy.content.readline()
            asked = asyncio.create_task(ask("hi"))
            await until(lambda: pool.queue_length == 1, "it waits")
            async with server.session.post("/v1/completions", json=LONG) as other:
                for _ in range(3):  # by then it had some too
                    assert (await other.content.readuntil(b"\n\n")).startswith(b": waiting")
        assert await asked > 0
        with pytest.raises(
            (openai.APIError, anthropic.APIError), match=r"context|prompt is too long"
        ):
            await ask("much " * 20000)


async def _ask(
    client: str, mine: openai.AsyncOpenAI, theirs: anthropic.AsyncAnthropic, prompt: str
) -> int:
    """How many events came."""
    messages: Any = [{"role": "user", "content": prompt}]
    how: Any = {"model": "tiny", "stream": True}
    match client:
        case "chat":
            events = await mine.chat.completions.create(messages=messages, max_tokens=4, **how)
        case "completions":
            events = await mine.completions.create(prompt=prompt, max_tokens=4, **how)
        case "responses":
            events = await mine.responses.create(input=prompt, max_output_tokens=4, **how)
        case _:
            events = await theirs.messages.create(messages=messages, max_tokens=4, **how)
    return len([event async for event in events])
