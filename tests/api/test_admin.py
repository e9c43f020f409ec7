"""The operator's routes of a whole proxy."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.app import Running
from proxy.catalog import watch as catalog_watch
from tests.api.conftest import ALIAS, MODEL
from tests.support.guard import HANG_S, until

pytestmark = pytest.mark.llama


async def get(client: aiohttp.ClientSession, path: str) -> Any:
    async with client.get(path) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def send(client: aiohttp.ClientSession, method: str, path: str, body: Any = None) -> Any:
    """Status and JSON of the answer."""
    async with client.request(method, path, json=body) as answer:
        return answer.status, await answer.json(content_type=None)


async def test_state_before_anything_is_loaded(
    client: aiohttp.ClientSession, policies: Path
) -> None:
    state = await get(client, "/admin/state")

    assert state["backends"] == []
    assert state["queue"] == {"waiting": 0, "max": 512}
    assert state["policies"] == {
        "generation": 1,
        "files": [str(policies)],
        "problems": [],
        "waiting_for_restart": [],
        "nodes": [],
    }
    assert state["host"]["total_bytes"] > state["host"]["available_bytes"] > 0
    assert state["degraded"] == []
    assert {"version", "uptime_s", "devices"} <= state.keys()


async def test_state_tells_of_a_loop_that_failed_and_health_does_not(
    proxy: Running, client: aiohttp.ClientSession
) -> None:
    async def fails() -> None:
        raise OSError("no watches left")

    async with proxy.services.loops.background(fails, name="look"):
        await asyncio.sleep(0)
        (failure,) = (await get(client, "/admin/state"))["degraded"]
        assert await get(client, "/health") == {"status": "ok"}

    assert (failure["loop"], failure["error"]) == ("look", "OSError('no watches left')")
    assert datetime.fromisoformat(failure["since"]) <= datetime.now(UTC)


@pytest.mark.parametrize("loop", ["memory", "rates", "catalog", "policies"])
async def test_every_loop_goes_on_after_it_failed(
    proxy: Running,
    client: aiohttp.ClientSession,
    policies: Path,
    monkeypatch: pytest.MonkeyPatch,
    loop: str,
) -> None:
    owner, name = {
        "memory": (proxy.services.memory, "_poll"),
        "rates": (proxy.services.rates, "sample"),
        "catalog": (catalog_watch, "_present"),
        "policies": (proxy.services.policies, "take"),
    }[loop]
    work, calls = getattr(owner, name), []

    def fails_once(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            raise RecursionError
        return work(*arguments)

    monkeypatch.setattr(owner, name, fails_once)
    policies.write_text(policies.read_text() + "# edited")

    async with asyncio.timeout(HANG_S):
        while len(calls) < 2:
            await asyncio.sleep(0.01)
    degraded = (await get(client, "/admin/state"))["degraded"]
    assert [(failure["loop"], failure["error"]) for failure in degraded] == [
        (loop, "RecursionError()")
    ]


async def test_load_show_and_unload(client: aiohttp.ClientSession) -> None:
    status, loaded = await send(client, "POST", f"/admin/models/{ALIAS}/load")
    (backend,) = (await get(client, "/admin/state"))["backends"]

    assert status == 200
    assert loaded["id"] == backend["id"] == "b1"
    assert (backend["model"], backend["state"], backend["ctx"]) == (MODEL, "ready", 2048)
    assert (backend["moe_cpu_layers"], backend["asked"]) == (4, "auto")
    assert [layer["experts"] for layer in backend["layers"]] == ["CPU"] * 4
    assert backend["layers"][0]["experts_bytes"] > 0
    assert backend["expires_at"] is not None
    assert backend["warnings"] == []
    running = (await get(client, "/running"))["running"]
    assert [(entry["model"], entry["state"]) for entry in running] == [(MODEL, "ready")]

    assert await send(client, "POST", f"/admin/models/{MODEL}/unload") == (200, {"unloaded": 1})
    assert (await get(client, "/running"))["running"] == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("PUT", "/admin/backends/b9/split", {"moe_cpu_layers": 1}, 404, "no backend 'b9'"),
        ("PUT", "/admin/backends/b9/split", {"moe_cpu_layers": "x"}, 400, "'x' is not allowed"),
        ("PUT", "/admin/backends/b9/split", {"layers": 1}, 400, "layers"),
        ("PUT", f"/admin/models/{MODEL}/split", {"moe_cpu_layers": 1}, 404, "not loaded"),
        ("POST", "/admin/models/nobody/load", None, 404, "'nobody' not found"),
        ("GET", "/admin/policies/..%2f..%2fetc%2fpasswd", None, 404, "policies.toml"),
        ("PUT", "/admin/policies/new.toml", {}, 404, "policies.toml"),
        ("GET", "/logs/stream/nobody", None, 404, "nobody"),
        ("GET", "/upstream/nobody/v1/models", None, 404, "nobody"),
        ("GET", "/v1/models/nobody", None, 404, "nobody"),
        ("GET", "/props?model=", None, 400, "model is required"),
        ("GET", "/props?model=no%20name", None, 400, "invalid model name"),
        ("GET", "/admin/events?after=x", None, 400, "Last-Event-ID"),
        ("GET", "/nothing/here", None, 404, "/nothing/here"),
        ("GET", "/ui/none.js", None, 404, "none.js"),
        ("POST", "/admin/requests/x/cancel", None, 404, "no request 'x'"),
        ("GET", "/admin/backends/b9/splits", None, 404, "no backend 'b9'"),
        ("POST", "/admin/policies/none.toml/check", None, 404, "none.toml"),
        ("GET", "/admin/policies/none.toml/versions", None, 404, "none.toml"),
        ("GET", "/v1/chat/completions", None, 405, "use POST"),
    ],
)
async def test_what_cannot_be_done(
    client: aiohttp.ClientSession, method: str, path: str, body: Any, status: int, says: str
) -> None:
    got, answer = await send(client, method, path, body)

    assert got == status, answer
    assert says in answer["error"]["message"]


async def test_events_stream_and_resume(proxy: Running, client: aiohttp.ClientSession) -> None:
    first = proxy.services.events.publish("one")
    proxy.services.events.publish("two")
    resume = {"Last-Event-ID": str(first.id)}
    async with asyncio.timeout(HANG_S), client.get("/admin/events", headers=resume) as stream:
        assert stream.content_type == "text/event-stream"
        assert (await stream.content.readuntil(b"\n\n")).startswith(b": connected")
        old = await stream.content.readuntil(b"\n\n")
        proxy.services.events.publish("three", n=3)
        new = b""
        while b"event: three" not in new:  # what is soon old may come before it
            new = await stream.content.readuntil(b"\n\n")

    assert old.startswith(f"id: {first.id + 1}\nevent: two\ndata: ".encode())
    assert json.loads(new.partition(b"data: ")[2])["n"] == 3


async def test_a_policy_file_is_replaced_only_by_a_good_one(
    proxy: Running, client: aiohttp.ClientSession, policies: Path
) -> None:
    before = policies.read_text()
    async with client.put("/admin/policies/policies.toml", data=b"[server]\nprot = 1\n") as bad:
        problems = (await bad.json())["problems"]
        assert (bad.status, problems[0]["line"]) == (400, 2)
        assert "port" in problems[0]["message"]
    assert policies.read_text() == before

    after = before.replace('max_body = "64KiB"', "max_queue = 3")
    async with client.put("/admin/policies/policies.toml", data=after.encode()) as good:
        assert good.status == 200, await good.text()

    async def holds() -> bool:
        return bool((await get(client, "/admin/state"))["queue"]["max"] == 3)

    await until(holds, "it holds")
    async with client.get("/admin/policies/policies.toml") as answer:
        assert await answer.text() == after
    assert [file.name for file in policies.parent.iterdir()] == ["policies.toml"]


async def test_a_broken_file_changes_nothing_and_is_shown(
    client: aiohttp.ClientSession, policies: Path
) -> None:
    policies.write_text("[server\n")

    async def told() -> Any:
        state = (await get(client, "/admin/state"))["policies"]
        return state if state["problems"] else None

    assert (await until(told, "it is told"))["generation"] == 1
    assert (await get(client, "/v1/models"))["data"][0]["id"] == MODEL


async def test_log_of_a_model(client: aiohttp.ClientSession) -> None:
    await send(client, "POST", f"/admin/models/{MODEL}/load")
    async with asyncio.timeout(HANG_S), client.get(f"/logs/stream/{MODEL}") as stream:
        assert (await stream.content.readline()).startswith(b"b1: ")


async def test_metrics(client: aiohttp.ClientSession) -> None:
    await send(client, "POST", f"/admin/models/{MODEL}/load")
    async with client.get("/metrics") as answer:
        text = await answer.text()

    assert f'moe_proxy_backend{{backend="b1",model="{MODEL}",state="ready"}} 1.0' in text
    assert "moe_proxy_requests_total" in text


async def test_unload_all(client: aiohttp.ClientSession) -> None:
    await send(client, "POST", f"/admin/models/{MODEL}/load")
    async with client.get("/unload") as answer:
        assert await answer.text() == "OK"

    assert (await get(client, "/running"))["running"] == []


async def test_a_backend_that_does_not_answer_keeps_no_other_of_its_model_from_moving(
    proxy: Running, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("/v1/completions", "/v1/embeddings"):
        body = {"model": MODEL, "prompt": "a", "input": "a", "max_tokens": 1}
        assert (await send(client, "POST", path, body))[0] == 200
    asked: list[str] = []

    async def never(target: str, split: object) -> None:
        asked.append(target)
        await asyncio.Event().wait()

    monkeypatch.setattr(proxy.services.controller, "operator", never)
    put = send(client, "PUT", f"/admin/models/{MODEL}/split", {"moe_cpu_layers": 1})
    asking = asyncio.ensure_future(put)

    await until(lambda: asked == ["b1", "b2"], "both are asked")
    asking.cancel()
