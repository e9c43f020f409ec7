"""Questions to a worker, and how long they are waited for."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from proxy.engine.control_client import MAX_LINE_BYTES, ControlClient, Event
from proxy.errors import BackendDied, Conflict, NoAnswer
from tests.support.guard import HANG_S

Say = Callable[[dict[str, Any]], None]


@asynccontextmanager
async def connected(
    folder: Path, answer: Callable[[dict[str, Any], Say], None], **times: float
) -> AsyncIterator[tuple[ControlClient, list[Event]]]:
    """A client, and the news that it had. `answer` is a worker: it gets each question, and a way to
    say something."""
    news: list[Event] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def say(message: dict[str, Any]) -> None:
            writer.write(json.dumps(message).encode() + b"\n")

        while line := await reader.readline():
            question = json.loads(line)
            if question["op"] == "leave":
                break
            answer(question, say)
        writer.close()

    server = await asyncio.start_unix_server(serve, folder / "control")
    client = ControlClient("b1", news.append, **times)
    async with server, asyncio.timeout(HANG_S):
        await client.connect(folder / "control")
        yield client, news
        with pytest.raises(BackendDied):
            await client.call("leave")


def echo(question: dict[str, Any], say: Say) -> None:
    say({"id": question["id"], "ok": question})


async def test_each_question_gets_its_own_answer(tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []

    def backwards(question: dict[str, Any], say: Say) -> None:
        asked.append(question)
        if len(asked) == 2:
            for one in reversed(asked):
                echo(one, say)

    async with connected(tmp_path, backwards) as (client, _):
        one, two = await asyncio.gather(client.call("a"), client.call_long("b", layers={}))

    assert json.loads(bytes(one))["op"] == "a"
    assert json.loads(bytes(two)) == {"id": 2, "op": "b", "layers": {}}


async def test_a_refusal_is_in_the_workers_own_words(tmp_path: Path) -> None:
    def refuse(question: dict[str, Any], say: Say) -> None:
        say({"id": question["id"], "error": "no device"})

    async with connected(tmp_path, refuse) as (client, _):
        with pytest.raises(Conflict, match="no device"):
            await client.call_long("place")


async def test_silence_ends_and_a_late_answer_harms_nobody(tmp_path: Path) -> None:
    late: list[Callable[[], None]] = []

    def answer(question: dict[str, Any], say: Say) -> None:
        if question["op"] == "slow":
            late.append(lambda: echo(question, say))
        else:
            for one in late:
                one()
            echo(question, say)

    async with connected(tmp_path, answer, answer_s=0.2) as (client, _):
        with pytest.raises(NoAnswer, match=r"not answered 'slow' for 0\.2 s"):
            await client.call("slow")
        await client.call_long("quick")


@pytest.mark.parametrize("told", [False, True])
async def test_what_takes_long_is_waited_for_as_long_as_there_is_news(
    told: bool, tmp_path: Path
) -> None:
    """It is asked for a sign of life three times; news come with each, or never."""
    place: list[dict[str, Any]] = []

    def answer(question: dict[str, Any], say: Say) -> None:
        if question["op"] == "place":
            place.append(question)
            return
        place.append(question)
        if told:
            say({"event": "state", "state": "ready"})
        echo(question, say)
        if len(place) == 4:
            echo(place[0], say)

    async with connected(tmp_path, answer, answer_s=1.0, news_s=1.5) as (client, news):
        if told:
            assert json.loads(bytes(await client.call_long("place")))["op"] == "place"
            assert [event.state for event in news] == ["ready"] * 3
        else:
            with pytest.raises(NoAnswer, match=r"at 'place', without news for 1\.5 s"):
                await client.call_long("place")


async def test_one_that_leaves_ends_what_was_asked(tmp_path: Path) -> None:
    async with connected(tmp_path, lambda *_: None) as (client, _):
        waiting: list[Awaitable[object]] = [client.call_long("place"), client.call("devices")]
        results = asyncio.gather(*waiting, client.call("leave"), return_exceptions=True)

        assert [type(result) for result in await results] == [BackendDied] * 3


@pytest.mark.parametrize("garbage", [b"\x00\xff\n", b'{"id": "x"}\n', b"{" * (2 * MAX_LINE_BYTES)])
async def test_one_that_makes_no_sense_is_not_listened_to_any_more(
    garbage: bytes, tmp_path: Path
) -> None:
    left = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(garbage)
        with suppress(ConnectionError):
            await reader.read()
        writer.close()
        left.set()

    client = ControlClient("b1", lambda _: None)
    async with (
        await asyncio.start_unix_server(serve, tmp_path / "control"),
        asyncio.timeout(HANG_S),
    ):
        await client.connect(tmp_path / "control")
        with capture_logs() as logs, pytest.raises(BackendDied):
            await client.call("state")
        assert [line["event"] for line in logs] == ["control_garbage"]
        with pytest.raises(BackendDied):
            await client.call("state")
        await left.wait()


async def test_whoever_waits_is_told_when_the_worker_is_ended(tmp_path: Path) -> None:
    """Also where its process never ends, and its connection with it."""
    async with connected(tmp_path, lambda *_: None) as (client, _):
        waiting: list[Awaitable[object]] = [client.call_long("place"), client.call("devices")]
        results = asyncio.gather(*waiting, return_exceptions=True)
        await asyncio.sleep(0)
        client.close()

        assert [type(result) for result in await results] == [BackendDied] * 2
