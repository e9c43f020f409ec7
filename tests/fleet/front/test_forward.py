"""Through a front, as at the node itself: every protocol, byte for byte; and which node it is."""

import asyncio
import contextlib
import gzip
import hashlib
import json
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.node.names import KEY_HEADER, NODE_HEADER, OWN_HEADER
from tests.fleet.front.conftest import API_KEY, Fleet
from tests.support.fleet import KEY
from tests.support.guard import HANG_S, until

pytestmark = [pytest.mark.llama, pytest.mark.asyncio(loop_scope="module")]

CHAT = "/v1/chat/completions"
BRIEF = {"model": "a", "messages": [{"role": "user", "content": "hello there"}], "max_tokens": 2}
SAME = {"temperature": 0, "seed": 1}
HELLO = [{"role": "user", "content": "hello there"}]
OLLAMA = {"options": {"temperature": 0, "seed": 1, "num_predict": 6}}
# What is of one answer alone: ids, and numbers that are times and what was cached.
OF_ONE = re.compile(rb'"(?:\w+[-_][A-Za-z0-9_-]{8,})"|\d+(?:\.\d+)?(?:e-?\d+)?')


def masked(body: bytes) -> bytes:
    return OF_ONE.sub(b"0", body)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": HELLO, "max_tokens": 6, **SAME}),
        ("/v1/completions", {"prompt": "once upon", "max_tokens": 6, **SAME}),
        ("/v1/responses", {"input": "hello there", "max_output_tokens": 6, "temperature": 0}),
        ("/v1/messages", {"messages": HELLO, "max_tokens": 6, "temperature": 0}),
        ("/api/chat", {"messages": HELLO, **OLLAMA}),
        ("/api/generate", {"prompt": "once upon", **OLLAMA}),
    ],
)
async def test_an_answer_is_the_nodes_own(
    fleet: Fleet, path: str, body: dict[str, Any], stream: bool
) -> None:
    asked = {"model": "a", **body, "stream": stream}
    url = fleet.nodes["n1"].url + path
    for _ in range(2):  # the second one finds its prompt in the cache, as the front's will
        async with fleet.session.post(url, json=asked, headers={KEY_HEADER: KEY}) as direct:
            own = await direct.read()

    through = await fleet.post(path, asked, **{NODE_HEADER: "n1"})

    assert through.status == direct.status == 200, own
    assert masked(through.body) == masked(own)
    kinds = [answer.headers["Content-Type"] for answer in (direct, through)]
    assert kinds[0] == kinds[1]
    assert set(through.headers) == set(direct.headers)
    assert through.headers[NODE_HEADER] == "n1"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": "hello"}),
        ("/tokenize", {"content": "hello"}),
        ("/api/show", {}),
        (CHAT, {"messages": "none"}),
        ("/v1/messages", {"messages": 5, "max_tokens": 2}),
        ("/v1/nothing", {}),
    ],
)
async def test_so_is_what_is_no_generation_and_an_error(
    fleet: Fleet, path: str, body: dict[str, Any]
) -> None:
    asked = {"model": "a", **body}
    url = fleet.nodes["n1"].url + path
    async with fleet.session.post(url, json=asked, headers={KEY_HEADER: KEY}) as direct:
        own = await direct.read()

    through = await fleet.post(path, asked, **{NODE_HEADER: "n1"})

    assert (through.status, masked(through.body)) == (direct.status, masked(own))


# --- which node ---


async def test_a_conversation_goes_to_where_it_was(fleet: Fleet) -> None:
    for number in range(4):
        first = [{"role": "user", "content": f"conversation {number}, at some length, please"}]
        turns, nodes = first, set()
        for turn in range(3):
            answer = await fleet.post(CHAT, {"model": "a", "messages": turns, "max_tokens": 4})
            told = answer.json()
            cached = told["usage"]["prompt_tokens_details"]["cached_tokens"]
            assert turn == 0 or cached > 10
            nodes.add(answer.headers[NODE_HEADER])
            said = told["choices"][0]["message"]["content"]
            turns = [
                *turns,
                {"role": "assistant", "content": said},
                {"role": "user", "content": "and then?"},
            ]
        assert len(nodes) == 1


async def test_it_stays_where_it_had_to_go(fleet: Fleet) -> None:
    """Its node was busy once: what the other has read is worth more than what the first has not."""
    for name in ("n1", "n2"):
        await fleet.post(CHAT, BRIEF, **{NODE_HEADER: name})  # both have loaded it
    await until(fleet.knows_both, "the front has heard so")
    body = BRIEF | {"messages": [{"role": "user", "content": "a conversation that has to move"}]}
    first = (await fleet.post(CHAT, body)).headers[NODE_HEADER]
    long = BRIEF | {"max_tokens": 3000, "ignore_eos": True, "stream": True}
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(2):  # as many as it has slots
            url, named = fleet.front.url + CHAT, {NODE_HEADER: first}
            busy = fleet.session.post(url, json=long, headers=named)
            stream = await stack.enter_async_context(busy)
            stack.callback(stream.close)
            await stream.content.readany()
        second = (await fleet.post(CHAT, body)).headers[NODE_HEADER]

    async def nobody() -> bool:
        return not await fleet.requests_at(first)

    await until(nobody, "it is free again")
    third = (await fleet.post(CHAT, body)).headers[NODE_HEADER]
    assert first != second == third


async def test_many_at_the_same_moment_are_shared_out(fleet: Fleet) -> None:
    async def ask(number: int) -> str:
        messages = [{"role": "user", "content": f"number {number}"}]
        answer = await fleet.post(CHAT, {"model": "a", "messages": messages, "max_tokens": 32})
        assert answer.status == 200
        return answer.headers[NODE_HEADER]

    nodes = await asyncio.gather(*map(ask, range(16)))

    assert min(nodes.count("n1"), nodes.count("n2")) >= 4
    assert set(nodes) == {"n1", "n2"}


async def test_a_model_is_where_its_file_is(fleet: Fleet) -> None:
    body = {"model": "b", "messages": HELLO, "max_tokens": 2}
    answer = await fleet.post(CHAT, body, Authorization=f"Bearer {API_KEY}")

    assert (answer.status, answer.headers[NODE_HEADER]) == (200, "n3")
    named = {**body, "model": "b?moe_cpu_layers=2"}
    answer = await fleet.post(CHAT, named, Authorization=f"Bearer {API_KEY}")
    assert (answer.status, answer.headers[NODE_HEADER]) == (200, "n3")


async def test_a_model_that_nobody_has_is_told_of_by_a_node(fleet: Fleet) -> None:
    answer = await fleet.post("/api/chat", {"model": "aa", "messages": HELLO})

    assert answer.status == 404
    assert "not found" in answer.json()["error"]


async def test_who_names_a_node_gets_that_one(fleet: Fleet) -> None:
    for name in ("n1", "n2"):
        answer = await fleet.post(CHAT, BRIEF, **{NODE_HEADER: name})
        assert answer.headers[NODE_HEADER] == name

    refused = await fleet.post("/v1/messages", {"model": "a"}, **{NODE_HEADER: "n9"})
    assert refused.status == 404
    error = refused.json()
    assert error["type"] == "error"
    assert "n1, n2, n3" in error["error"]["message"]


async def test_a_response_is_found_where_it_was_made(fleet: Fleet) -> None:
    body = {"model": "a", "input": "hi", "max_output_tokens": 3}
    made = await fleet.post("/v1/responses", body, **{NODE_HEADER: "n2"})
    response = made.json()["id"]

    kept = await fleet.get(f"/v1/responses/{response}")
    body = {"model": "a", "input": "go on", "previous_response_id": response}
    after = await fleet.post("/v1/responses", body | {"max_output_tokens": 3})

    assert (kept.status, after.status) == (200, 200)
    assert made.headers[NODE_HEADER] == kept.headers[NODE_HEADER] == after.headers[NODE_HEADER]


# --- who may ask ---


async def test_a_nodes_api_key_is_asked_of_clients_and_no_client_is_the_fleet(fleet: Fleet) -> None:
    body = {"model": "b", "messages": HELLO, "max_tokens": 2}
    tricks = {KEY_HEADER: KEY, OWN_HEADER: "1"}

    assert (await fleet.post(CHAT, body)).status == 401
    assert (await fleet.post(CHAT, body, **{OWN_HEADER: "1"})).status == 401
    assert (await fleet.post(CHAT, body, **tricks)).status == 401


async def test_the_clients_own_host_and_origin_are_judged(fleet: Fleet) -> None:
    allowed = await fleet.get("/api/version", Origin="http://localhost:3000")
    assert allowed.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
    assert NODE_HEADER in allowed.headers["Access-Control-Expose-Headers"]

    assert (await fleet.get("/api/version", Origin="https://evil.example")).status == 403
    assert (await fleet.get("/api/version", Host="evil.example")).status == 403
    # By the name of the machine that the front is on, whatever the node is called.
    assert (await fleet.get("/api/version", Host=socket.gethostname())).status == 200


# --- how it comes ---


async def test_a_packed_body_goes_on_as_it_is(fleet: Fleet) -> None:
    body = gzip.compress(json.dumps(BRIEF | {"model": "b"}).encode())
    headers = {
        "Content-Encoding": "gzip",
        "Content-Type": "application/json",
        "Authorization": f"Bearer {API_KEY}",
    }
    async with fleet.session.post(fleet.front.url + CHAT, data=body, headers=headers) as answer:
        assert (answer.status, answer.headers[NODE_HEADER]) == (200, "n3")


async def test_a_body_without_a_length_and_one_that_waits_to_be_asked_for(fleet: Fleet) -> None:
    body = json.dumps({"model": "a", "messages": HELLO, "max_tokens": 2}).encode()

    async def pieces() -> AsyncIterator[bytes]:
        yield body[:10]
        yield body[10:]

    url = fleet.front.url + CHAT
    async with fleet.session.post(url, data=pieces()) as answer:
        assert answer.status == 200, await answer.text()
    async with fleet.session.post(url, data=body, expect100=True) as answer:
        assert answer.status == 200, await answer.text()


async def test_a_target_with_a_host_in_it(fleet: Fleet) -> None:
    host, _, port = fleet.front.url.removeprefix("http://").partition(":")
    for target in (f"{fleet.front.url}/api/version", "/api//version", "/api/version?a=%2F&b"):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        async with asyncio.timeout(HANG_S):
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200"), (target, answer)
        writer.close()


async def test_a_head_has_no_body(fleet: Fleet) -> None:
    url = fleet.front.url + "/api/tags"
    async with fleet.session.get(url, headers={NODE_HEADER: "n1"}) as whole:
        length = len(await whole.read())
    async with fleet.session.head(url, headers={NODE_HEADER: "n1"}) as answer:
        assert (answer.status, await answer.read()) == (200, b"")
        assert answer.headers["Content-Length"] == str(length)


async def test_a_large_file_is_never_held(fleet: Fleet) -> None:
    chunk = bytes(1 << 20)
    count = 160
    digest = hashlib.sha256(chunk * count).hexdigest()
    path = f"/api/blobs/sha256:{digest}"

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(count):
            yield chunk

    before = _peak_bytes(fleet.front.process.pid)
    sizes: tuple[dict[str, str], ...] = ({"Content-Length": str(count << 20)}, {})
    nodes = set()
    for headers in sizes:
        async with fleet.session.post(
            fleet.front.url + path, data=pieces(), headers=headers
        ) as answer:
            assert answer.status in (200, 201), await answer.text()
            nodes.add(answer.headers[NODE_HEADER])
    async with fleet.session.head(fleet.front.url + path) as answer:
        assert answer.status == 200
        nodes.add(answer.headers[NODE_HEADER])

    assert len(nodes) == 1
    assert _peak_bytes(fleet.front.process.pid) - before < count << 19


def _peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


async def test_a_client_that_leaves_ends_its_generation(fleet: Fleet) -> None:
    body = {"model": "a", "messages": HELLO, "max_tokens": 3000, "ignore_eos": True}
    body["stream"] = True
    async with fleet.session.post(
        fleet.front.url + CHAT, json=body, headers={NODE_HEADER: "n1"}
    ) as answer:
        await answer.content.readany()
        assert await fleet.requests_at("n1") == 1
        answer.close()

    async def nobody() -> bool:
        return not await fleet.requests_at("n1")

    await until(nobody, "the node is at nothing any more")


async def test_a_client_that_does_not_read_keeps_no_other_waiting(fleet: Fleet) -> None:
    body = {"model": "a", "messages": HELLO, "max_tokens": 3000, "ignore_eos": True}
    body["stream"] = True
    async with (
        asyncio.timeout(HANG_S),
        aiohttp.ClientSession(read_bufsize=1 << 10) as session,
        session.post(fleet.front.url + CHAT, json=body, headers={NODE_HEADER: "n1"}) as slow,
    ):
        await slow.content.readany()
        answer = await fleet.post(
            CHAT, {"model": "a", "messages": HELLO, "max_tokens": 2}, **{NODE_HEADER: "n1"}
        )
        assert answer.status == 200
        slow.close()
