"""What a front knows of its nodes, from what they tell."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from proxy.fleet.front.nodes import Nodes
from proxy.fleet.member import Member, Members
from proxy.node.identity import Identity, identity_of
from proxy.node.names import KEY_FILE_VARIABLE, NODE_VARIABLE
from tests.support.fleet import key_file
from tests.support.guard import until
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy


def identity(folder: Path) -> Identity:
    return identity_of({KEY_FILE_VARIABLE: str(key_file(folder))})


@asynccontextmanager
async def node(folder: Path, *names: str, port: int = 0) -> AsyncIterator[Proxy]:
    """One in this process, which has these models."""
    env = {NODE_VARIABLE: "n1", KEY_FILE_VARIABLE: str(key_file(folder))}
    async with proxy(folder, text(*names), port=port, env=env) as one:
        yield one


def text(*names: str) -> str:
    return policies({name: {"path": model(layers=4), "ctx": 4096} for name in names})


async def test_a_node_tells_what_it_has_and_whenever_that_changes(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as one, Nodes(identity(tmp_path)) as nodes:
        heard: list[tuple[str, str]] = []
        changed: list[str] = []
        nodes.hear(lambda name, kind, fields: heard.append((name, kind)))
        nodes.subscribe(changed.append)
        assert not nodes.are_ready_for(["a"])

        nodes.set_members(Members([Member("n1", one.url)]))

        await until(lambda: [*nodes.fleet.models()] == ["a"], "its model is known")
        found = nodes.get("n1")
        assert found is not None
        assert found.may_be_asked
        assert nodes.are_ready_for(["a"])
        assert found.model_list["data"][0]["id"] == "a"
        assert nodes.fleet.nodes["n1"].free_bytes > 0
        assert heard[0] == ("n1", "state")
        one.edit(text("a", "b"))
        await until(lambda: {*nodes.fleet.models()} == {"a", "b"}, "the other one is known too")
        assert set(changed) == {"n1"}
        nodes.set_members(Members([Member("n1", one.url, draining=True)]))
        assert [*nodes.fleet.models()] == []
        assert nodes.answering() == [found]


async def test_what_is_passed_on_counts_at_once(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as one, Nodes(identity(tmp_path)) as nodes:
        nodes.set_members(Members([Member("n1", one.url)]))
        await until(lambda: [*nodes.fleet.models()] == ["a"], "its model is known")
        found = nodes.get("n1")
        assert found is not None

        with nodes.passing(found, "a"), nodes.passing(found, "a"), nodes.passing(found, ""):
            assert nodes.fleet.with_model("a")["n1"].in_flight == 2
            assert found.load == 3
        assert nodes.fleet.with_model("a") == {}
        assert found.load == 0


async def test_one_that_is_started_again_is_asked_again(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with Nodes(identity(tmp_path)) as nodes:
        nodes.set_members(Members([Member("n1", f"http://127.0.0.1:{port}")]))
        for names in (("a",), ("a", "b")):
            async with node(tmp_path, *names, port=port) as one:
                await until(lambda: bool(nodes.answering()), "it answers")
                await until(lambda n=names: {*nodes.fleet.models()} == {*n}, "and has these")  # type: ignore[misc]
                one.app.services.events.close()  # as a drain does
            await until(lambda: not nodes.answering(), "it is gone")
            assert [*nodes.fleet.models()] == []


async def test_one_that_says_nothing_keeps_nobody_waiting_for_long(tmp_path: Path) -> None:
    """It takes connections. Whoever asks for what only it might have waits until it is known."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with node(tmp_path, "a") as one, Nodes(identity(tmp_path)) as nodes:
            nodes.set_members(Members([Member("n1", one.url), Member("n2", url)]))
            await until(lambda: bool(nodes.answering()), "one answers")
            found = nodes.get("n2")
            assert found is not None
            while not nodes.are_ready_for(["a"]):
                await nodes.until_news()
            assert found.follower.hangs_since_s is None
            assert not nodes.are_ready_for(["b"])
            while not nodes.are_ready_for(["b"]):
                await nodes.until_news()
            assert found.follower.hangs_since_s is not None
            assert not found.answers


async def test_who_is_no_member_any_more_is_forgotten(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as one, Nodes(identity(tmp_path)) as nodes:
        nodes.set_members(Members([Member("n1", one.url), Member("n2", "no url")]))
        assert [each.name for each in nodes] == ["n1"]
        await until(lambda: bool(nodes.answering()), "it answers")
        nodes.set_members(Members())
        assert [*nodes] == [*nodes.fleet.nodes] == [*nodes.fleet.models()] == []


async def test_one_that_tells_something_else_is_followed_all_the_same(tmp_path: Path) -> None:
    """As one of another version may: then nothing is known of it but what is as it should be."""

    async def events(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b'event: state\ndata: {"proxy": null, "memory": 5, "backends": []}\n\n')
        await asyncio.Event().wait()
        return answer

    async def models(request: web.Request) -> web.StreamResponse:
        return web.json_response({"data": [{"id": "a"}, {"id": 5}, 6]})

    app = web.Application()
    app.router.add_get("/admin/events", events)
    app.router.add_get("/v1/models", models)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    here = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, here).start()
    try:
        async with Nodes(identity(tmp_path)) as nodes:
            url = f"http://127.0.0.1:{here.getsockname()[1]}"
            nodes.set_members(Members([Member("n1", url)]))
            await until(lambda: [*nodes.fleet.models()] == ["a"], "its model is known")
    finally:
        await runner.cleanup()
