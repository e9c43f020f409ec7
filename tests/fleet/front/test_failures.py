"""Nodes that die, hang, drain or are not there, and a front that is replaced: nobody who has not
got a byte notices, and who has is told in his protocol's words."""

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.fleet.member import Member
from proxy.node.names import KEY_FILE_VARIABLE, NODE_HEADER
from tests.fleet.front.conftest import usual_model
from tests.support.fleet import front, node
from tests.support.guard import HANG_S, until
from tests.support.models import model
from tests.support.serving import Serving

pytestmark = pytest.mark.llama

CHAT = "/v1/chat/completions"
CANCEL = "/admin/requests/n1.1/cancel"
STREAMS = 16
# By the path: what a stream ends with that comes to its end, and the error of one that does not.
PROTOCOLS = {
    CHAT: (b"data: [DONE]\n\n", b'data: {"error":'),
    "/v1/messages": (b'"type":"message_stop"}\n\n', b'event: error\ndata: {"type":"error"'),
    "/api/chat": (b'"done":true', b'{"error":'),
}


def session() -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=HANG_S)
    return aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))


def asked(path: str, number: int, length: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"this is conversation {number}"}]
    body: dict[str, Any] = {"model": "a", "messages": messages, "stream": True}
    if path.startswith("/api/"):
        return body | {"options": {"num_predict": length}}
    return body | {"max_tokens": length}


def logged(child: Serving, event: str) -> bool:
    lines = (json.loads(line) for line in child.lines if line.startswith("{"))
    return any(line["event"] == event for line in lines)


class Stream:
    """One that is read as it comes."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.node, self.status, self.body, self.is_whole = "", 0, b"", False

    @property
    def words(self) -> int:
        return self.body.count(b"\n")

    async def read(self, session: aiohttp.ClientSession, url: str, body: Any) -> None:
        async with session.post(url + self.path, json=body) as answer:
            self.status, self.node = answer.status, answer.headers.get(NODE_HEADER, "")
            with contextlib.suppress(aiohttp.ClientPayloadError):
                async for chunk in answer.content.iter_any():
                    self.body += chunk
                self.is_whole = True


async def test_a_node_is_killed_under_many_streams(tmp_path: Path) -> None:
    """Those in the queue are answered by the other node; those in the middle end with an error."""
    usual = {"path": model(layers=8), "ctx": 4096, "parallel": 2}
    paths = [*PROTOCOLS] * STREAMS
    streams = [Stream(path) for path in paths[:STREAMS]]
    async with (
        node(tmp_path, "n1", {"a": usual}) as n1,
        node(tmp_path, "n2", {"a": usual}) as n2,
        front(tmp_path, n1.member, n2.member) as one,
        session() as client,
    ):
        reading = [
            asyncio.ensure_future(stream.read(client, one.url, asked(stream.path, number, 120)))
            for number, stream in enumerate(streams)
        ]
        began = lambda: [s for s in streams if s.node == "n1" and s.words > 6]  # noqa: E731
        await until(began, "n1 is in the middle of an answer")
        os.kill(n1.pid, signal.SIGKILL)
        await asyncio.gather(*reading)

    broken = [stream for stream in streams if stream.node == "n1"]
    others = [stream for stream in streams if stream.node == "n2"]
    assert len(broken) + len(others) == STREAMS
    assert broken
    assert others
    for stream in others:
        assert stream.is_whole
        assert stream.status == 200
        assert PROTOCOLS[stream.path][0] in stream.body[-500:], stream.body[-500:]
    for stream in broken:
        end, error = PROTOCOLS[stream.path]
        if end not in stream.body[-500:]:  # it had not just come to its end
            last = stream.body.rstrip(b"\n").split(b"\n\n" if end[-1:] == b"\n" else b"\n")[-1]
            assert last.startswith(error), last


async def test_a_node_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    """It is there for the kernel, which takes connections and all that is sent."""
    async with (
        node(tmp_path, "n1", {"a": usual_model()}) as n1,
        node(tmp_path, "n2", {"a": usual_model()}) as n2,
        front(tmp_path, n1.member, n2.member) as one,
        session() as client,
    ):
        first, second = Stream(CHAT), Stream(CHAT)
        await first.read(client, one.url, asked(CHAT, 1, 3))
        nodes = {"n1": n1, "n2": n2}
        os.kill(nodes[first.node].pid, signal.SIGSTOP)
        try:
            await second.read(client, one.url, asked(CHAT, 1, 3))
        finally:
            os.kill(nodes[first.node].pid, signal.SIGCONT)

        assert {first.node, second.node} == {"n1", "n2"}
        assert second.body.endswith(b"data: [DONE]\n\n")

        async def is_back() -> bool:
            async with client.get(one.url + "/health", headers={NODE_HEADER: first.node}) as answer:
                return answer.status == 200

        await until(is_back, "it is asked again once it answers")


async def test_a_node_that_is_about_to_end_gets_nothing_new(tmp_path: Path) -> None:
    """Whatever it has answers to its end; who comes meanwhile, and who waits there, goes on."""
    async with (
        node(tmp_path, "n1", {"a": usual_model()}) as n1,
        node(tmp_path, "n2", {"a": usual_model()}) as n2,
        front(tmp_path, n1.member, n2.member) as one,
        session() as client,
    ):
        long = [Stream(CHAT) for _ in range(4)]
        reading = [
            asyncio.ensure_future(stream.read(client, one.url, asked(CHAT, number, 200)))
            for number, stream in enumerate(long)
        ]
        await until(lambda: all(stream.words > 4 for stream in long), "all are at it")
        n1.serving.process.send_signal(signal.SIGTERM)
        await until(lambda: logged(n1.serving, "draining"), "n1 is about to end")
        later = [Stream(CHAT) for _ in range(8)]
        for number, stream in enumerate(later):
            await stream.read(client, one.url, asked(CHAT, 100 + number, 2))
        await asyncio.gather(*reading)

    assert {stream.node for stream in later} == {"n2"}
    for stream in (*long, *later):
        assert stream.body.endswith(b"data: [DONE]\n\n")


async def test_who_waits_at_a_node_that_ends_is_answered_elsewhere(tmp_path: Path) -> None:
    """Also one whose stream has its head already, and signs of life; of it no byte is lost."""
    long = {"path": model(layers=12), "ctx": 8000, "parallel": 1}
    async with (
        node(tmp_path, "n1", {"a": long}, server={"drain": "1s"}) as n1,
        node(tmp_path, "n2", {"a": usual_model()}) as n2,
        front(tmp_path, n1.member) as one,
        session() as client,
    ):
        first, second, third = Stream(CHAT), Stream(CHAT), Stream("/api/chat")
        endless = asked(CHAT, 1, 7000) | {"ignore_eos": True}
        reading = [asyncio.ensure_future(first.read(client, one.url, endless))]
        await until(lambda: first.words > 4, "the only slot is taken")
        for number, stream in enumerate((second, third)):
            body = asked(stream.path, number, 3)
            reading.append(asyncio.ensure_future(stream.read(client, one.url, body)))
        await until(lambda: b": waiting" in second.body, "it is told that it waits")
        await one.tell(n1.member, n2.member)
        n1.serving.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*reading)

    assert b"data: [DONE]" not in first.body
    assert second.body.endswith(b"data: [DONE]\n\n")
    assert b"error" not in second.body
    assert third.node == "n2"
    assert b'"done":true' in third.body


async def test_where_no_node_is_left_it_is_said_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    member = Member("n1", f"http://127.0.0.1:{port}")
    async with front(tmp_path, member) as one, session() as client:

        async def refusal(path: str) -> Any:
            async with client.post(one.url + path, json=asked(path, 1, 1)) as answer:
                assert answer.status == 503
                assert int(answer.headers["Retry-After"]) > 0
                return await answer.json()

        found = dict(zip(PROTOCOLS, await asyncio.gather(*map(refusal, PROTOCOLS)), strict=True))

    assert found[CHAT]["error"]["type"] == "server_error"
    assert found["/v1/messages"]["error"]["type"] == "overloaded_error"
    assert isinstance(found["/api/chat"]["error"], str)


async def named(client: aiohttp.ClientSession, url: str, node: str, body: Any) -> tuple[int, str]:
    """What a POST that asks for this node alone is answered with."""
    async with client.post(url, json=body, headers={NODE_HEADER: node}) as answer:
        assert answer.status != 503 or "Retry-After" in answer.headers
        return answer.status, await answer.text()


async def test_who_names_a_node_that_drains_or_has_left_is_told_to_come_again(
    tmp_path: Path,
) -> None:
    async with (
        node(tmp_path, "n1", {"a": usual_model()}) as n1,
        node(tmp_path, "n2", {}) as n2,
        front(tmp_path, n1.member, n2.member) as one,
        session() as client,
    ):
        body = {**asked(CHAT, 0, 2), "stream": False}
        assert (await named(client, one.url + CHAT, "n1", body))[0] == 200

        await one.tell(replace(n1.member, draining=True), n2.member)

        async def back() -> bool:
            return (await named(client, one.url + CHAT, "n1", body))[0] == 200

        async def refused() -> bool:
            status, told = await named(client, one.url + CHAT, "n1", body)
            return status == 503 and "begins nothing new" in told

        await until(refused, "n1 is known to drain")
        # Who runs it may do there what they like.
        assert (await named(client, one.url + "/admin/models/a/load", "n1", None))[0] == 200

        await one.tell(n2.member)  # the process of n1 has ended, and is begun again

        async def left() -> bool:
            return "has left" in (await named(client, one.url + CANCEL, "n2", None))[1]

        await until(left, "n1 has left")
        for path in (CHAT, "/admin/models/a/load", CANCEL):
            assert (await named(client, one.url + path, "n1", body))[0] == 503, path
            other = one.url + path.replace("n1.", "n9.")
            assert (await named(client, other, "n9", body))[0] == 404, path
        await one.tell(n1.member, n2.member)
        await until(back, "n1 is back")


async def test_a_model_whose_only_node_is_away_is_no_unknown_one(tmp_path: Path) -> None:
    """One that is back soon is waited for; else clients are told to come again."""
    usual = usual_model()
    async with (
        node(tmp_path, "n1", {"a": usual}) as n1,
        node(tmp_path, "n2", {"b": {**usual, "path": model(layers=4, seed=1)}}) as n2,
        front(tmp_path, n1.member, n2.member) as one,
        session() as client,
    ):
        body = {**asked(CHAT, 0, 2), "model": "b", "stream": False}

        async def listed() -> bool:
            async with client.get(one.url + "/v1/models") as answer:
                return {each["id"] for each in (await answer.json())["data"]} == {"a", "b"}

        async def missing() -> bool:
            return not await listed()

        await until(listed, "both are known")
        await one.tell(n1.member)
        await until(missing, "n2 has left")
        waits = asyncio.ensure_future(client.post(one.url + CHAT, json=body))
        await asyncio.sleep(0)
        await one.tell(n1.member, n2.member)
        async with await waits as answer:
            assert answer.status == 200
            assert answer.headers[NODE_HEADER] == "n2"

        os.kill(n2.pid, signal.SIGSTOP)
        try:
            await until(missing, "n2 is silent")
            for method, path, fields in (
                ("POST", CHAT, body),
                ("GET", "/v1/models/b", None),
                ("POST", "/admin/models/b/load", None),
                ("POST", "/api/create", {"model": "c", "from": "b", "stream": False}),
                ("POST", "/api/copy", {"source": "b", "destination": "c"}),
                ("DELETE", "/api/delete", {"model": "b"}),
            ):
                async with client.request(method, one.url + path, json=fields) as answer:
                    assert answer.status == 503, path
                    assert "Retry-After" in answer.headers, path
                    assert "n2" in await answer.text(), path
        finally:
            os.kill(n2.pid, signal.SIGCONT)


async def test_a_node_of_another_key_is_none(tmp_path: Path) -> None:
    other = tmp_path / "other-key"
    other.touch(0o600)
    other.write_text("a-key-of-quite-another-fleet")
    env = {KEY_FILE_VARIABLE: str(other)}
    async with (
        node(tmp_path, "n1", {"a": usual_model()}, env=env) as n1,
        front(tmp_path, n1.member) as one,
    ):
        await until(lambda: logged(one.serving, "node_does_not_answer"), "it is not asked")
        assert any("HTTP 401" in line for line in one.serving.lines)
        assert not logged(one.serving, "node_answers")


async def test_members_come_and_go_while_requests_do(tmp_path: Path) -> None:
    async with (
        node(tmp_path, "n1", {"a": usual_model()}) as n1,
        node(tmp_path, "n2", {"a": usual_model()}) as n2,
        front(tmp_path, n1.member) as one,
        session() as client,
    ):

        async def asks(name: str) -> bool:
            stream = Stream(CHAT)
            await stream.read(client, one.url, asked(CHAT, 1, 2))
            assert stream.status == 200
            return stream.node == name

        assert await asks("n1")
        await one.tell(Member("n1", n1.url, draining=True), n2.member)
        await until(lambda: asks("n2"), "a node that drains gets nothing new")
        await one.tell(n1.member)
        await until(lambda: asks("n1"), "who has left is not asked")


@contextlib.contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as sock:
        sock.set_inheritable(True)
        yield sock


async def test_a_front_is_replaced_while_clients_connect(tmp_path: Path) -> None:
    """Its socket belongs to somebody else: whoever comes meanwhile waits in its queue."""
    done: list[int] = []
    failed: list[BaseException] = []
    over = asyncio.Event()

    async def come_and_go(url: str) -> None:
        while not over.is_set():
            try:
                async with (
                    aiohttp.ClientSession() as client,
                    client.get(url + "/api/version") as answer,
                ):
                    done.append(answer.status)
                    await answer.read()
            except Exception as error:
                failed.append(error)

    with listening() as sock:
        fd = sock.fileno()
        async with node(tmp_path, "n1", {}) as n1, front(tmp_path, n1.member, fd=fd) as first:
            long_lived = aiohttp.ClientSession()
            async with long_lived.get(first.url + "/api/version") as answer:
                assert answer.status == 200
            clients = [asyncio.ensure_future(come_and_go(first.url)) for _ in range(4)]
            await until(lambda: len(done) > 20, "clients are answered")
            first.end()
            await asyncio.wait_for(first.process.wait(), HANG_S)
            assert first.process.returncode == 0
            before = len(done)
            async with front(tmp_path, n1.member, fd=fd):
                await until(lambda: len(done) > before + 20, "they are answered by the other")
                over.set()
                await asyncio.gather(*clients)
            await long_lived.close()

    assert failed == []
    assert set(done) == {200}


async def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    async with (
        node(tmp_path, "n1", {"a": usual_model()}) as n1,
        front(tmp_path, n1.member) as one,
        session() as client,
    ):
        stream = Stream(CHAT)
        reading = asyncio.ensure_future(
            stream.read(client, one.url, asked(CHAT, 1, 3000) | {"ignore_eos": True})
        )
        await until(lambda: stream.words > 4, "an answer is on its way")
        one.process.send_signal(signal.SIGTERM)
        await until(lambda: logged(one.serving, "draining"), "it waits for the answer")
        assert one.process.returncode is None
        one.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(one.process.wait(), HANG_S)
        await reading

    assert not stream.is_whole
