"""What one node refuses for a reason of its own another one answers, and the client does not
notice; where none can, it is told when to come again. What clients have caused is told at once."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from proxy.node.names import NODE_HEADER, REFUSES_COMMENT, REFUSES_HEADER
from tests.fleet.front.conftest import Answer, Fleet
from tests.fleet.front.views.conftest import ENDLESS
from tests.support.fleet import front, node
from tests.support.guard import until
from tests.support.models import model

pytestmark = [pytest.mark.llama, pytest.mark.asyncio(loop_scope="module")]

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello there"}]
# By the path: where its protocol tells what is wrong.
PROTOCOLS = {
    CHAT: ("error", "message"),
    "/v1/messages": ("error", "message"),
    "/api/chat": ("error",),
}
KEY = "a-key-with-a-limit"
# The wait after so many failures in a row is far longer than any machine takes for a test.
TIMES = 8
SLOW = "while [ ! -e {0} ]; do sleep 0.1; done; exit 1"
FIRST_HANGS = 'mkdir {0} 2>/dev/null && exec sleep 600; exec "$0" -c "$1" "$2"'
# A server that is well, and has no place for anybody.
BUSY = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self, status=200):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.send_header("Retry-After", "7")
        self.end_headers()
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET(503)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def asked(name: str, **more: Any) -> dict[str, Any]:
    brief = {"max_tokens": 2, "options": {"num_predict": 2}}  # in the one's words and the other's
    return {"model": name, "messages": HELLO, **brief, **more}


def pinned(name: str) -> dict[str, str]:
    return {NODE_HEADER: name}


# Which of the models are not well where, and who answers.
UNWELL = (("1", "n1", "n2"), ("2", "n2", "n1"))


@dataclass
class Refusing(Fleet):
    folder: Path = Path()

    async def retries(self) -> int:
        """How often the front has asked another node."""
        text = (await self.get("/metrics")).body.decode()
        found = re.findall(r"^moe_proxy_front_retries_total\{.*\} (\S+)$", text, re.MULTILINE)
        return int(sum(map(float, found)))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Refusing]:
    """Model `a` is well on both nodes, `slow` on none; `bad1`, `slow1` and `busy1` are not on n1,
    and those with a 2 not on n2: so one of each kind is asked for where it is not, whichever node
    is first."""
    folder: Path = tmp_path_factory.mktemp("fleet")
    for name in ("n1", "n2"):
        (folder / f"of-{name}").mkdir()
        for number, _, _ in UNWELL:
            shutil.copy(model(layers=4), folder / f"of-{name}" / f"file{number}.gguf")
    (folder / "bad.gguf").write_bytes(b"GGUF but not really")
    usual = {"path": model(layers=4), "ctx": 4096, "parallel": 2, **ENDLESS}
    few = {"max_queue": 1}
    slow = ["sh", "-c", SLOW.format(folder / "go"), "sh", "{model}", "{port}"]
    busy = [sys.executable, "-c", BUSY, "{port}"]
    unwell = {
        "bad": {**usual, "path": folder / "bad.gguf"},
        "slow": {**usual, "engine": "command", "command": slow},
        "busy": {**usual, "engine": "command", "command": busy},
    }

    def models(own: int) -> dict[str, Any]:
        here = {f"{kind}{own}": table for kind, table in unwell.items()}
        return {
            "a": usual,
            "slow": unwell["slow"],
            **here,
            **{f"{kind}{3 - own}": usual for kind in unwell},
        }

    async with (
        node(folder, "n1", models(1), catalog={"dirs": [folder / "of-n1"]}, server=few) as n1,
        node(folder, "n2", models(2), catalog={"dirs": [folder / "of-n2"]}, server=few) as n2,
        front(folder, n1.member, n2.member) as one,
        aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(None), connector=aiohttp.TCPConnector(limit=0)
        ) as session,
    ):
        yield Refusing(one, {"n1": n1, "n2": n2}, session, folder)


async def unload(fleet: Refusing, name: str, *nodes: str) -> None:
    """It is loaded on none of these nodes, and the front knows."""
    for each in nodes:
        await fleet.post(f"/admin/models/{name}/unload", {}, **pinned(each))

    async def gone() -> bool:
        backends = (await fleet.get("/admin/state")).json()["backends"]
        ready = [each for each in backends if each["state"] != "gone"]
        return not any(each["model"] == name and each["node"] in nodes for each in ready)

    await until(gone, f"{name} is unloaded")


@contextlib.asynccontextmanager
async def full(fleet: Refusing, name: str, at: str) -> AsyncIterator[None]:
    """A node whose slots are taken, and its queue too."""
    body = asked(name, max_tokens=1 << 20, stream=True)
    async with contextlib.AsyncExitStack() as stack:

        async def ask() -> None:
            url = fleet.front.url + CHAT
            async with fleet.session.post(url, json=body, headers=pinned(at)) as answer:
                async for _ in answer.content.iter_any():
                    pass

        await fleet.post(f"/admin/models/{name}/load", {}, **pinned(at))
        reading = [asyncio.ensure_future(ask()) for _ in range(3)]
        for each in reading:
            stack.callback(each.cancel)

        async def is_full() -> bool:
            backends = (await fleet.get("/admin/state")).json()["backends"]
            found = [b for b in backends if (b["model"], b["node"]) == (name, at)]
            return any((b["in_flight"], b["waiting"]) == (2, 1) for b in found)

        await until(is_full, f"{at} is full")
        yield

    async def nobody() -> bool:
        return not await fleet.requests_at(at)

    await until(nobody, f"{at} is free again")


def told(answer: Answer, path: str) -> str:
    found = answer.json()
    for key in PROTOCOLS[path]:
        found = found[key]
    return str(found)


# --- a node that has no place, or cannot load ---


async def test_what_a_full_node_refuses_another_one_answers(fleet: Refusing) -> None:
    before = await fleet.retries()
    for path in PROTOCOLS:
        await unload(fleet, "a", "n2")  # else it would be asked first
        async with full(fleet, "a", "n1"):
            answer = await fleet.post(path, asked("a", stream=False))

            assert (answer.status, answer.headers[NODE_HEADER]) == (200, "n2"), answer.body
            assert REFUSES_HEADER not in answer.headers
    assert await fleet.retries() > before


async def test_who_names_a_full_node_is_told_that_it_is(fleet: Refusing) -> None:
    async with full(fleet, "a", "n1"):
        answer = await fleet.post(CHAT, asked("a"), **pinned("n1"))

    assert (answer.status, answer.headers[NODE_HEADER]) == (503, "n1")
    assert int(answer.headers["Retry-After"]) >= 1
    assert REFUSES_HEADER not in answer.headers


async def test_where_all_are_full_it_is_said_in_each_protocols_shape(fleet: Refusing) -> None:
    async with full(fleet, "a", "n1"), full(fleet, "a", "n2"):
        for path in PROTOCOLS:
            answer = await fleet.post(path, asked("a"))

            assert answer.status == 503
            assert int(answer.headers["Retry-After"]) >= 1
            assert "too many requests" in told(answer, path)
            assert answer.headers[NODE_HEADER] in ("n1", "n2")


async def test_what_cannot_be_loaded_on_one_node_is_loaded_on_another(fleet: Refusing) -> None:
    for number, _, well in UNWELL:
        name = f"bad{number}"
        answer = await fleet.post(CHAT, asked(name))

        assert (answer.status, answer.headers[NODE_HEADER]) == (200, well), answer.body


async def test_so_is_what_an_operator_has_loaded(fleet: Refusing) -> None:
    for number, _, well in UNWELL:
        name = f"bad{number}"
        await unload(fleet, name, well)
        answer = await fleet.post(f"/admin/models/{name}/load", {})

        assert (answer.status, answer.headers[NODE_HEADER]) == (200, well), answer.body


async def test_a_node_in_back_off_is_left_alone(fleet: Refusing) -> None:
    """For a moment, in which it would be asked each time."""
    for number, bad, well in UNWELL:
        name = f"bad{number}"
        for _ in range(TIMES):
            failed = await fleet.post(f"/admin/models/{name}/load", {}, **pinned(bad))
            assert failed.status == 500
        before = await fleet.retries()
        for _ in range(5):
            await unload(fleet, name, well)  # else it would be asked since it has it loaded
            assert (await fleet.post(CHAT, asked(name))).headers[NODE_HEADER] == well
        assert await fleet.retries() <= before + 1


async def test_a_stream_that_has_waited_for_a_load_that_fails_goes_on_elsewhere(
    fleet: Refusing,
) -> None:
    """Its head is out by then, with signs of life, and nothing else."""

    async def ask(number: str) -> bytes:
        body = asked(f"slow{number}", stream=True)
        async with fleet.session.post(fleet.front.url + CHAT, json=body) as answer:
            whole = b""
            async for chunk in answer.content.iter_any():
                whole += chunk
                if chunk.startswith(b": "):
                    (fleet.folder / "go").touch()
            return whole

    for number, _, _ in UNWELL:
        (fleet.folder / "go").unlink(missing_ok=True)
        whole = await ask(number)
        assert whole.endswith(b"data: [DONE]\n\n"), whole
        assert b"error" not in whole
        assert REFUSES_COMMENT not in whole


async def test_where_all_loads_fail_a_stream_is_told_why(fleet: Refusing) -> None:
    (fleet.folder / "go").unlink(missing_ok=True)
    async with fleet.session.post(
        fleet.front.url + CHAT, json=asked("slow", stream=True)
    ) as answer:
        whole = b""
        async for chunk in answer.content.iter_any():
            whole += chunk
            (fleet.folder / "go").touch()

    assert whole.count(b'data: {"error":') == 1, whole
    assert REFUSES_COMMENT not in whole


async def test_an_engine_that_has_no_place_is_no_answer(fleet: Refusing) -> None:
    for number, bad, well in UNWELL:
        name = f"busy{number}"
        alone = await fleet.post(CHAT, asked(name), **pinned(bad))
        answer = await fleet.post(CHAT, asked(name))

        assert (alone.status, alone.headers["Retry-After"]) == (503, "7")
        assert (answer.status, answer.headers[NODE_HEADER]) == (200, well), answer.body


# --- what another one has ---


async def test_a_model_whose_file_has_just_gone_is_had_from_another_node(fleet: Refusing) -> None:
    for number, gone, well in UNWELL:
        (fleet.folder / f"of-{gone}" / f"file{number}.gguf").unlink()
        answer = await fleet.post(CHAT, asked(f"file{number}"))

        assert (answer.status, answer.headers[NODE_HEADER]) == (200, well), answer.body


async def test_a_response_is_found_by_a_front_that_does_not_know_where_it_was_made(
    fleet: Refusing,
) -> None:
    members = [each.member for each in fleet.nodes.values()]
    made = {}
    for name in fleet.nodes:
        body = {"model": "a", "input": "hi", "max_output_tokens": 3}
        answer = await fleet.post("/v1/responses", body, **pinned(name))
        made[name] = answer.json()["id"]
    async with front(fleet.folder, *members) as other:
        through = Fleet(other, fleet.nodes, fleet.session)
        for name, response in made.items():
            kept = await through.get(f"/v1/responses/{response}")
            body = {"model": "a", "input": "go on", "previous_response_id": response}
            after = await through.post("/v1/responses", {**body, "max_output_tokens": 3})

            assert (kept.status, after.status) == (200, 200), (kept.body, after.body)
            assert kept.headers[NODE_HEADER] == after.headers[NODE_HEADER] == name
        nowhere = await through.get("/v1/responses/resp_of_nobody")

    assert nowhere.status == 404
    assert "resp_of_nobody" in nowhere.json()["error"]["message"]


async def test_a_model_of_a_node_that_does_not_answer_is_not_gone(fleet: Refusing) -> None:
    """To a client 404 is for good."""
    async with node(fleet.folder, "n3", {"only": {"path": model(layers=4)}}) as n3:
        n1 = fleet.nodes["n1"].member
        async with front(fleet.folder, n1, n3.member) as other:
            through = Fleet(other, {}, fleet.session)

            async def listed(name: str) -> bool:
                told = (await through.get("/v1/models")).json()["data"]
                return any(each["id"] == name for each in told)

            await until(lambda: listed("only"), "the front knows it")
            os.kill(n3.pid, signal.SIGKILL)
            for path in PROTOCOLS:
                answer = await through.post(path, asked("only"))
                assert answer.status == 503, answer.body
                assert int(answer.headers["Retry-After"]) >= 1


async def test_a_model_of_a_node_that_hangs_is_waited_for(fleet: Refusing) -> None:
    """For a while: nobody else has it."""
    async with node(fleet.folder, "n3", {"only": {"path": model(layers=4)}}) as n3:
        n1 = fleet.nodes["n1"].member
        async with front(fleet.folder, n1, n3.member) as other:
            through = Fleet(other, {}, fleet.session)
            assert (await through.post(CHAT, asked("only"))).status == 200
            os.kill(n3.pid, signal.SIGSTOP)
            try:
                asking = asyncio.ensure_future(through.post(CHAT, asked("only")))

                async def is_silent() -> bool:
                    told = (await through.get("/admin/state")).json()["nodes"]
                    return any((n["name"], n["state"]) == ("n3", "silent") for n in told)

                await until(is_silent, "it hangs")
            finally:
                os.kill(n3.pid, signal.SIGCONT)
            answer = await asking

    assert (answer.status, answer.headers[NODE_HEADER]) == (200, "n3"), answer.body


async def test_a_load_on_a_node_that_dies_is_made_on_another(fleet: Refusing) -> None:
    command = ["sh", "-c", FIRST_HANGS.format(fleet.folder / "first")]
    command += [sys.executable, BUSY, "{port}"]
    table = {"path": model(layers=4), "ctx": 4096, "engine": "command", "command": command}
    async with (
        node(fleet.folder, "n6", {"m": table}) as n6,
        node(fleet.folder, "n7", {"m": table}) as n7,
        front(fleet.folder, n6.member, n7.member) as other,
    ):
        through = Fleet(other, {"n6": n6, "n7": n7}, fleet.session)
        asking = asyncio.ensure_future(through.post("/admin/models/m/load", {}))
        await until((fleet.folder / "first").exists, "one of them loads it")
        for name, each in through.nodes.items():
            if (await through.state(name))["backends"]:
                os.kill(each.pid, signal.SIGKILL)
                break
        answer = await asking

    assert answer.status == 200, answer.body
    assert answer.headers[NODE_HEADER] != name


# --- what a client has caused ---


async def test_what_a_client_has_caused_is_told_at_once(fleet: Refusing) -> None:
    before = await fleet.retries()
    wrong: list[tuple[str, dict[str, Any], int]] = [
        (CHAT, asked("a", messages="none"), 400),
        (CHAT, asked("nobody-has-this"), 404),
        ("/v1/nothing", {}, 404),
    ]
    for path, body, status in wrong:
        assert (await fleet.post(path, body)).status == status

    assert await fleet.retries() == before


async def test_a_key_that_has_reached_its_limit_is_not_helped_by_another_node(
    fleet: Refusing,
) -> None:
    keys = fleet.folder / "keys"
    keys.write_text(f"{KEY} use guest limit=1\n")
    keys.chmod(0o600)
    table = {"a": {"path": model(layers=4), "ctx": 4096}}
    async with (
        node(fleet.folder, "n4", table, server={"api_keys_file": keys}) as n4,
        node(fleet.folder, "n5", table, server={"api_keys_file": keys}) as n5,
        front(fleet.folder, n4.member, n5.member) as other,
    ):
        through = Fleet(other, {}, fleet.session)
        bearer = {"Authorization": f"Bearer {KEY}"}
        first = await through.post(CHAT, asked("a"), **bearer)
        second = await through.post(CHAT, asked("a"), **bearer)

    assert (first.status, second.status) == (200, 429)
    assert first.headers[NODE_HEADER] == second.headers[NODE_HEADER]
    assert int(second.headers["Retry-After"]) >= 1
