"""What a real front shows of three real nodes, and does to them."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import ollama
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy.api.merge_patch import applied
from proxy.cli.main import main
from proxy.engine.ports import free_port
from proxy.node.names import OWN_HEADER
from tests.fleet.front.views.conftest import ADMIN, KEYS, USE, FleetRig
from tests.support.fleet import front, node
from tests.support.guard import HANG_S, until
from tests.support.models import model
from tests.support.playwright import Browser, Page, browser
from tests.ui.helpers import PHONE, fits

pytestmark = [pytest.mark.llama, pytest.mark.asyncio(loop_scope="module")]

ASK: Any = {"model": "m", "prompt": "once upon a time", "max_tokens": 4}
LOOKS = ("/v1/models", "/models", "/api/tags", "/api/ps", "/running", "/metrics", "/admin/state",
         "/admin/events", "/admin/requests", "/logs", "/logs/stream",
         "/admin/models/m/plan")  # fmt: skip


@asynccontextmanager
async def followed(
    rig: FleetRig, path: str = "/admin/events?state", key: str = ADMIN
) -> AsyncIterator[AsyncIterator[tuple[str, Any]]]:
    """The events of the fleet, as kind and fields."""
    headers = {"Authorization": f"Bearer {key}"}
    async with rig.session.get(path, headers=headers) as stream:
        assert stream.status == 200

        async def events() -> AsyncGenerator[tuple[str, Any], None]:
            kind = ""
            async for line in stream.content:
                if line.startswith(b"event: "):
                    kind = line[7:].decode().strip()
                elif line.startswith(b"data: "):
                    yield kind, json.loads(line[6:])

        async with asyncio.timeout(HANG_S), aclosing(events()) as found:
            yield found


def of_ollama(rig: FleetRig) -> ollama.AsyncClient:
    return ollama.AsyncClient(host=rig.url, headers={"Authorization": f"Bearer {USE}"})


async def test_the_clients_of_each_protocol_list_all_models(rig: FleetRig) -> None:
    one = openai.AsyncOpenAI(base_url=f"{rig.url}/v1", api_key=USE)
    third = anthropic.AsyncAnthropic(base_url=rig.url, api_key=USE)
    async with one, third, of_ollama(rig) as other:
        assert {each.id for each in (await one.models.list()).data} == {"m", "n"}
        assert {each.id async for each in third.models.list()} == {"m", "n"}
        assert (await one.models.retrieve("n")).id == "n"
        assert {each.model for each in (await other.list()).models} == {"m:latest", "n:latest"}
    told = (await rig.get("/v1/models"))["data"]
    assert {each["id"]: each["nodes"] for each in told} == {"m": ["attic", "cellar"], "n": ["desk"]}
    assert [each["created"] for each in told] == sorted(
        (each["created"] for each in told), reverse=True
    )


@pytest.mark.parametrize("path", LOOKS)
async def test_who_has_no_key_is_told_so_by_the_nodes(rig: FleetRig, path: str) -> None:
    """Also who says what only the fleet may say."""
    async with aiohttp.ClientSession(rig.url, headers={OWN_HEADER: "1"}) as stranger:
        async with stranger.get(path) as answer:
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            told = (await answer.json())["error"]
    assert "API key" in (told if isinstance(told, str) else told["message"])


async def test_a_page_of_a_stranger_reads_nothing(rig: FleetRig) -> None:
    headers = {"Origin": "https://evil.example"}
    for path in ("/v1/models", "/admin/state", "/admin/events"):
        told = await rig.get(path, headers=headers, status=403)
        assert "evil.example" in told["error"]["message"]


async def test_a_page_that_may_is_told_that_it_may_read(rig: FleetRig) -> None:
    origin = "http://localhost:3000"
    async with rig.session.get("/v1/models", headers={"Origin": origin}) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == origin


async def test_a_key_for_use_looks_and_changes_nothing(rig: FleetRig) -> None:
    use = {"Authorization": f"Bearer {USE}"}
    assert (await rig.get("/admin/state", headers=use))["nodes"]
    for path in ("/admin/models/m/load", "/admin/requests/attic.x/cancel", "/api/pull"):
        await rig.post(path, {"model": "m"}, headers=use, status=403)
    await rig.get("/unload", headers=use, status=403)


async def test_what_is_open_is_open(rig: FleetRig) -> None:
    async with aiohttp.ClientSession(rig.url) as stranger:
        for path in ("/health", "/v1/health"):
            async with stranger.get(path) as answer:
                assert (answer.status, await answer.json()) == (200, {"status": "ok"})
        async with stranger.get("/ui/") as answer:
            assert "moe-proxy" in await answer.text()
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        async with stranger.get("/ui/needs-key") as answer:
            assert await answer.json() == {"needs_key": True}


async def test_the_state_is_of_all_machines(rig: FleetRig) -> None:
    for name in ("attic", "cellar"):
        assert (await rig.post("/admin/models/m/load", node=name))["node"] == name

    async def both() -> Any:
        state = await rig.get("/admin/state")
        return state if len(state["devices"]) == 2 else None

    state = await until(both, "both devices are known")
    assert [(each["name"], each["node"]) for each in state["devices"]] == [
        ("RPC0", "attic"),
        ("RPC0", "cellar"),
    ]
    assert [(b["model"], b["node"], b["id"].partition(".")[0]) for b in state["backends"]] == [
        ("m", "attic", "attic"),
        ("m", "cellar", "cellar"),
    ]
    nodes = {each["name"]: each for each in state["nodes"]}
    assert nodes.keys() == rig.nodes.keys()
    assert nodes["attic"]["url"] == rig.nodes["attic"].url
    assert nodes["desk"]["version"] == state["version"]
    total = sum(each["host"]["total_bytes"] for each in nodes.values())
    assert state["host"]["total_bytes"] == total
    assert state["queue"] == {"waiting": 0, "max": 3 * 512}
    assert {each["name"]: each["scope"] for each in state["keys"]} == {
        "boss": "admin",
        "guest": "use",
    }
    loaded = (await rig.get("/api/ps"))["models"]
    assert {(each["node"], each["backend"].partition(".")[0]) for each in loaded} == {
        ("attic", "attic"),
        ("cellar", "cellar"),
    }
    assert {each["node"] for each in (await rig.get("/running"))["running"]} == {"attic", "cellar"}
    async with of_ollama(rig) as client:
        assert [each.model for each in (await client.ps()).models] == ["m:latest", "m:latest"]


async def test_a_backend_goes_by_the_name_that_its_answers_say(rig: FleetRig) -> None:
    async with rig.session.post("/v1/completions", json=ASK) as answer:
        backend, node = (answer.headers[f"X-Moe-Proxy-{each}"] for each in ("Backend", "Node"))
        assert answer.status == 200
    assert backend.startswith(f"{node}.b")

    moved = await rig.put(f"/admin/backends/{backend}/split", {"moe_cpu_layers": 3})
    assert (moved["id"], moved["node"], moved["asked"]) == (backend, node, 3)
    assert moved["moe_cpu_layers"] == 3
    table = await rig.get(f"/admin/backends/{backend}/splits")
    assert [row["moe_cpu_layers"] for row in table["splits"]] == [0, 1, 2, 3, 4]
    told = await rig.get("/admin/backends/b1/splits", status=404)
    assert "NODE.ID" in told["error"]["message"]
    told = await rig.get("/admin/backends/garage.b1/splits", status=404)
    assert "there is attic, cellar, desk" in told["error"]["message"]


async def test_what_is_done_to_a_model_is_done_wherever_it_is_loaded(rig: FleetRig) -> None:
    for name in ("attic", "cellar"):
        await rig.post("/admin/models/m/load", node=name)
    pinned = await rig.post("/admin/models/m/pin")
    assert pinned["pinned"] is True
    assert {each.partition(".")[0] for each in pinned["backends"]} == {"attic", "cellar"}
    assert (await rig.post("/admin/models/m/unpin"))["pinned"] is False
    split = await rig.put("/admin/models/m/split", {"moe_cpu_layers": 1})
    assert [(b["node"], b["moe_cpu_layers"]) for b in split["backends"]] == [
        ("attic", 1),
        ("cellar", 1),
    ]
    assert await rig.post("/admin/models/m/unload", node="attic") == {"unloaded": 1}
    split = await rig.put("/admin/models/m/split", {"moe_cpu_layers": 2})
    assert [(b["node"], b["moe_cpu_layers"]) for b in split["backends"]] == [("cellar", 2)]
    assert {each.partition(".")[0] for each in await rig.loaded()} == {"cellar"}
    assert await rig.post("/admin/models/m/unload") == {"unloaded": 1}
    assert await rig.post("/admin/models/m/unload") == {"unloaded": 0}
    assert "not loaded" in (await rig.post("/admin/models/m/pin", status=404))["error"]["message"]


async def test_unload_is_of_all(rig: FleetRig) -> None:
    await rig.post("/admin/models/m/load")
    await rig.post("/admin/models/n/load")
    assert len(await rig.loaded()) == 2
    assert await rig.get("/unload") == "OK"
    assert await rig.loaded() == {}


async def test_a_plan_says_on_which_machine(rig: FleetRig) -> None:
    assert (await rig.get("/admin/models/n/plan?vram=1GiB"))["node"] == "desk"
    assert (await rig.get("/admin/models/m/plan?vram=1GiB"))["node"] in ("attic", "cellar")
    assert (await rig.get("/admin/models/m/plan?vram=1GiB", node="cellar"))["node"] == "cellar"
    await rig.get("/admin/models/nobody/plan", status=404)


async def test_a_request_is_seen_with_its_machine_and_ended(rig: FleetRig) -> None:
    body = {**ASK, "max_tokens": 100_000, "stream": True}
    async with rig.session.post("/v1/completions", json=body) as answer:
        await answer.content.readline()
        node = answer.headers["X-Moe-Proxy-Node"]
        (found,) = (await rig.get("/admin/requests"))["requests"]
        assert (found["node"], found["model"]) == (node, "m")
        assert found["backend"] == answer.headers["X-Moe-Proxy-Backend"]
        assert found["id"] == f"{node}.{answer.headers['X-Request-ID']}"

        ended = await rig.post(f"/admin/requests/{found['id']}/cancel")

        assert ended == {"cancelled": found["id"]}
        said = b""
        with suppress(aiohttp.ClientPayloadError):  # half an answer must not look like a whole one
            async for line in answer.content:
                said += line
        assert b"request_cancelled" in said
    await rig.post(f"/admin/requests/{found['id']}/cancel", status=404)


async def test_who_follows_knows_what_there_is(rig: FleetRig) -> None:
    """As of a single proxy: all of it, and then what changes; so the page works on it."""
    async with followed(rig) as events:
        kind, known = await anext(events)
        assert kind == "state"
        assert known["proxy"]["nodes"].keys() == rig.nodes.keys()
        loading = asyncio.ensure_future(rig.post("/admin/models/m/load", node="cellar"))
        kinds: set[str] = set()

        async def until_known(fact: Callable[[], object]) -> None:
            if fact():
                return
            async for kind, fields in events:
                if "patch" in fields:
                    known[kind] = applied(known[kind], fields["patch"])
                else:
                    assert fields["backend"].startswith(f"{fields['node']}.b")
                if fields.get("node", "cellar") == "cellar":
                    kinds.add(kind)
                if fact():
                    return

        # What is told of a state comes a moment later than what happens.
        await until_known(lambda: {"backend_starting", "backend_ready", "backends"} <= kinds)
        loaded = await loading
        await until_known(lambda: known["backends"].get(loaded["id"], {}).get("layers"))
        await until_known(lambda: "cellar.RPC0" in known["memory"]["devices"])
        assert known["memory"]["hosts"].keys() == rig.nodes.keys()
        await rig.put(f"/admin/backends/{loaded['id']}/split", {"moe_cpu_layers": 4})
        await until_known(lambda: "moved" in kinds)
        told = {b["id"]: b for b in (await rig.get("/admin/state"))["backends"]}[loaded["id"]]
        assert (told["moe_cpu_layers"], told["asked"]) == (4, 4)
        same = ("id", "model", "node", "pid", "ctx", "state", "moe_cpu_layers", "asked")
        await until_known(
            lambda: all(known["backends"][loaded["id"]].get(key) == told[key] for key in same)
        )
    async with followed(rig, "/admin/events?after=0") as events:
        async for kind, fields in events:
            if kind == "moved" and fields["backend"] == loaded["id"]:
                break  # who comes later is told too


async def test_a_front_that_comes_later_tells_what_happened_before(
    rig: FleetRig, tmp_path: Path
) -> None:
    loaded = await rig.post("/admin/models/m/load", node="attic")
    (tmp_path / "fleet-key").symlink_to(rig.keys.with_name("fleet-key"))
    async with front(tmp_path, *rig.members) as other, aiohttp.ClientSession(other.url) as session:
        # It has just started, and waits for its nodes rather than say that there are none.
        later = replace(rig, front=other, session=session)
        async with session.get("/v1/models", headers={"x-api-key": USE}) as answer:
            there = {each["id"]: each["nodes"] for each in (await answer.json())["data"]}
        assert there == {"m": ["attic", "cellar"], "n": ["desk"]}
        async with (
            followed(later, "/admin/events?after=0") as events,
            session.get("/logs/stream", headers={"Authorization": f"Bearer {ADMIN}"}) as logs,
        ):
            async for kind, fields in events:
                if kind == "backend_ready" and fields["backend"] == loaded["id"]:
                    break
            # Who only follows does not hold up its end.
            other.end()
            told = [kind async for kind, _ in events]
            assert "proxy" in told
            async with asyncio.timeout(HANG_S):
                await logs.read()
                await other.process.wait()


async def test_a_machine_that_comes_back_is_followed_again(rig: FleetRig, tmp_path: Path) -> None:
    """By the same streams, and by whoever asks anew."""
    (tmp_path / "fleet-key").symlink_to(rig.keys.with_name("fleet-key"))
    models = {"g": {"path": model(layers=1)}}
    keys: dict[str, Any] = {"server": {"api_keys_file": rig.keys, "warm_workers": 0}}
    port = free_port()

    async def starts(logs: aiohttp.ClientResponse) -> None:
        """A worker there says so."""
        async with asyncio.timeout(HANG_S):
            async for line in logs.content:
                if line.startswith(b"garage.b") and b"initializing" in line:
                    return

    async def is_known() -> bool:
        return "g" in {each["id"] for each in (await rig.get("/v1/models"))["data"]}

    try:
        async with rig.session.get("/logs/stream?no-history") as logs, followed(rig) as events:
            async with node(tmp_path, "garage", models, port=port, **keys) as garage:
                await rig.front.tell(*rig.members, garage.member)
                await until(is_known, "it has come")
                await rig.post("/admin/models/g/load")
                await starts(logs)
                garage.serving.process.kill()

                async def is_gone() -> bool:
                    return (await rig.states())["garage"] == "silent"

                await until(is_gone, "it is gone")
            assert "g" not in (await rig.loaded()).values()
            async with node(tmp_path, "garage", models, port=port, **keys):
                await until(is_known, "it is back")
                await rig.post("/admin/models/g/load")
                seen: list[str] = []
                loads = 0
                async for kind, fields in events:
                    if kind == "proxy" and (told := fields["patch"].get("nodes", {}).get("garage")):
                        seen += [told["state"]] if "state" in told else []
                    loads += kind == "backend_ready" and fields["node"] == "garage"
                    if loads == 2 and seen[-2:] == ["silent", "ready"]:
                        break
                await starts(logs)
    finally:
        await rig.front.tell(*rig.members)


async def test_who_loses_his_key_is_told_no_more(rig: FleetRig) -> None:
    async with followed(rig, key=USE) as events, followed(rig, "/logs/stream?x", USE):
        await anext(events)
        rig.keys.write_text(f"{ADMIN} admin boss\n")
        try:
            async for _ in events:  # to its end
                pass
        finally:
            rig.keys.write_text(KEYS)


async def test_metrics_say_of_which_machine(rig: FleetRig) -> None:
    await rig.post("/v1/completions", ASK, node="attic")
    text = await rig.get("/metrics")
    found = {metric.name: metric.samples for metric in text_string_to_metric_families(text)}
    queue = {sample.labels["node"] for sample in found["moe_proxy_queue_length"]}
    assert queue == rig.nodes.keys()
    passed = {
        (sample.labels["node"], sample.labels["status"]): sample.value
        for sample in found["moe_proxy_front_requests"]
        if sample.name.endswith("_total")
    }
    assert passed["attic", "200"] >= 1
    (ready,) = [s for s in found["moe_proxy_front_nodes"] if s.labels["state"] == "ready"]
    assert ready.value == 3
    if shutil.which("promtool"):
        done = await asyncio.to_thread(
            lambda: subprocess.run(
                ("promtool", "check", "metrics"), input=text, capture_output=True, text=True
            )
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


async def test_policies_are_read_checked_and_written_on_one_machine(rig: FleetRig) -> None:
    path = "/admin/policies/p.toml"
    async with rig.session.get(path) as answer:
        text, tag = await answer.text(), answer.headers["ETag"]
        home = answer.headers["X-Moe-Proxy-Node"]
    assert home == "attic"  # the front's own machine is none of these
    checked = await rig.ask("POST", f"{path}/check", data="[models.m]\nctx = 'x'\n")
    assert checked["problems"]
    new = f"{text}\n# written at the front\n"
    await rig.ask("PUT", path, data=new, headers={"If-Match": '"other"'}, status=412)
    await rig.ask("PUT", path, data=new, headers={"If-Match": tag})
    assert await rig.get(path) == new
    assert (await rig.get(f"{path}/versions"))["versions"]
    assert "written at the front" not in await rig.get(path, node="cellar")
    await rig.ask("PUT", path, data=text)


async def test_a_model_is_made_where_its_base_is_and_removed_everywhere(rig: FleetRig) -> None:
    body = {"model": "own", "from": "n", "system": "Be brief.", "stream": False}
    assert (await rig.post("/api/create", body))["status"] == "success"

    async def nodes_of(name: str) -> list[str]:
        told = (await rig.get("/api/tags"))["models"]
        return next((each["nodes"] for each in told if each["name"] == name), [])

    assert await nodes_of("own:latest") == ["desk"]

    assert (await rig.post("/api/show", {"model": "own"}))["system"] == "Be brief."
    await rig.post("/api/copy", {"source": "own", "destination": "also"})
    assert await nodes_of("also:latest") == ["desk"]
    for name in ("also", "own"):
        await rig.ask("DELETE", "/api/delete", json={"model": name})
        assert await nodes_of(f"{name}:latest") == []
    await rig.ask("DELETE", "/api/delete", json={"model": "own"}, status=404)


async def test_a_machine_can_be_named(rig: FleetRig) -> None:
    told = await rig.get("/v1/models", node="desk")
    assert [each["id"] for each in told["data"]] == ["n"]
    told = await rig.get("/v1/models", node="shed", status=404)
    assert "there is attic, cellar, desk" in told["error"]["message"]
    await rig.post("/admin/models/n/load", node="attic", status=404)


async def test_commands_name_a_machine(
    rig: FleetRig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOE_PROXY_API_KEY", ADMIN)

    async def run(*words: str) -> int:
        return await asyncio.to_thread(main, [*words, "--url", rig.url])

    assert await run("load", "m", "--node", "cellar") == 0
    assert capsys.readouterr().out.startswith("cellar.b")
    assert {each.partition(".")[0] for each in await rig.loaded()} == {"cellar"}
    assert await run("unload", "m", "--node", "attic") == 0
    assert await rig.loaded() != {}
    assert await run("load", "m", "--node", "garage") == 1
    assert "there is attic, cellar, desk" in capsys.readouterr().err
    assert await run("pull", "127.0.0.1:9/library/tiny", "--node", "desk", "--insecure") == 1
    # It is in the log of the front where it went, and why.
    told = [json.loads(line) for line in rig.front.serving.lines if "pull_goes_to" in line][-1]
    assert (told["node"], told["why"]) == ("desk", "the client names it")


async def test_a_model_of_a_file_is_brought_to_one_machine(
    rig: FleetRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parts and its recipe to the same one, whoever brings them."""
    monkeypatch.setenv("MOE_PROXY_API_KEY", ADMIN)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Modelfile").write_text(f"FROM {model(layers=1)}\nSYSTEM Be brief.\n")
    for name, words in {"brought": (), "named": ("--node", "cellar")}.items():
        create = ["create", name, "-f", "Modelfile", "--url", rig.url, *words]
        assert await asyncio.to_thread(main, create) == 0
        told = {each["name"]: each["nodes"] for each in (await rig.get("/api/tags"))["models"]}
        assert len(told[f"{name}:latest"]) == 1
        assert (await rig.post("/api/show", {"model": name}))["system"] == "Be brief."
    assert told["named:latest"] == ["cellar"]
    assert await asyncio.to_thread(main, ["rm", "brought", "named", "--url", rig.url]) == 0
    assert {each["id"] for each in (await rig.get("/v1/models"))["data"]} == {"m", "n"}


async def test_logs_say_of_which_machine(rig: FleetRig) -> None:
    await rig.post("/admin/models/m/load", node="attic")
    await rig.post("/admin/models/n/load")
    lines = (await rig.get("/logs")).splitlines()
    assert {line.partition(".")[0] for line in lines} >= {"attic", "desk"}
    assert {line.partition(".b")[0] for line in (await rig.get("/logs/n")).splitlines()} == {"desk"}
    await rig.get("/logs/nobody", status=404)


async def test_logs_of_all_machines_go_on_as_one(rig: FleetRig) -> None:
    await rig.post("/admin/models/m/load", node="attic")
    async with asyncio.timeout(HANG_S), rig.session.get("/logs/stream?no-history") as stream:
        await rig.post("/admin/models/m/load", node="cellar")
        await rig.post("/v1/completions", ASK, node="attic")
        wanted = {"attic", "cellar"}
        async for line in stream.content:
            wanted.discard(line.decode().partition(".")[0])
            if not wanted:
                return


async def test_a_machine_that_is_silent_holds_nobody_up_and_is_named(rig: FleetRig) -> None:
    """The very one whose policies are shown, and that is asked whether followers may go on."""

    async def seen(events: AsyncIterator[tuple[str, Any]], state: str) -> None:
        async for kind, fields in events:
            nodes = fields["patch"].get("nodes", {}) if kind == "proxy" else {}
            if nodes.get("attic", {}).get("state") == state:
                return

    async with followed(rig) as events:
        os.kill(rig.nodes["attic"].pid, signal.SIGSTOP)
        try:
            async with rig.session.get("/v1/models") as answer:
                assert "attic" in answer.headers["X-Moe-Proxy-Warning"]
                told = {each["id"]: each["nodes"] for each in (await answer.json())["data"]}
            assert told == {"m": ["cellar"], "n": ["desk"]}
            await seen(events, "silent")
            assert (await rig.states())["attic"] == "silent"
            async with followed(rig) as others:
                _, known = await anext(others)
            assert known["proxy"]["nodes"]["attic"]["state"] == "silent"
            assert known["memory"]["hosts"].keys() == {"cellar", "desk"}
            await rig.get("/v1/models", node="attic", status=503)
            assert (await rig.get("/health"))["status"] == "ok"
            async with rig.session.get("/admin/policies/p.toml") as answer:
                assert answer.headers["X-Moe-Proxy-Node"] == "cellar"
        finally:
            os.kill(rig.nodes["attic"].pid, signal.SIGCONT)
        await seen(events, "ready")


def card(model: str, node: str) -> str:
    return f'article[aria-label="{model} on {node}"]'


async def logged_in(rig: FleetRig, chromium: Browser, **options: Any) -> Page:
    page = await chromium.open(f"{rig.url}/ui/", **options)
    await page.do("await page.getByLabel('API key').fill(arg)", ADMIN)
    await page.click('button:has-text("Log in")')
    await page.sees("section.devices .node")
    return page


async def test_the_page_shows_each_machine_and_changes_it(rig: FleetRig, tmp_path: Path) -> None:
    async with browser(tmp_path) as chromium:
        page = await logged_in(rig, chromium)
        for name in rig.nodes:
            await page.sees(f'[aria-label="Node {name}"] .chip:has-text("ready")')
            await page.sees(f'[aria-label="Node {name}"] [aria-label^="Main memory of {name}"]')
        assert "0 of 2 loaded" in await page.text("section.models h2")
        await page.do('await page.getByLabel("Where to load m").selectOption("cellar")')
        await page.click('button[aria-label="Load m"]')
        await page.sees(f'{card("m", "cellar")} .chip:has-text("ready")')
        assert {each.partition(".")[0] for each in await rig.loaded()} == {"cellar"}
        await page.sees('[aria-label="Node cellar"] .device:has-text("RPC0")')
        await page.sees('[aria-label="Node cellar"] .legend:has-text("experts of m")')

        await rig.post("/admin/models/m/load", node="attic")
        await page.sees(f"{card('m', 'attic')} .cell")
        moved = f'{card("m", "cellar")} .cell[data-place="CPU"]'
        await page.do("await page.locator(arg).getByRole('slider').fill('4')", card("m", "cellar"))
        await page.do("await page.locator(arg).nth(3).waitFor()", moved)
        await page.sees('.moves li:has-text("cellar"):has-text("you set it")')
        split = {b["node"]: b["asked"] for b in (await rig.get("/admin/state"))["backends"]}
        assert split == {"attic": "auto", "cellar": 4}

        assert await page.said() == []  # of one that is gone it may still ask something

        await page.click(f'{card("m", "cellar")} button:has-text("Unload")')
        await page.sees('.moves li:has-text("m is unloaded")')
        await until(lambda: _only(rig, "attic"), "the other one stays")
        await page.do("await page.evaluate(() => (location.hash = 'policies'))")
        await page.sees(".editor textarea:not([disabled])")
        await page.do("await page.evaluate(() => (location.hash = 'logs'))")
        await page.sees('.lines:has-text("attic.b")')

        phone = await logged_in(rig, chromium, viewport=PHONE)
        await fits(phone, PHONE)
        assert await phone.said() == []


async def _only(rig: FleetRig, node: str) -> bool:
    return {each.partition(".")[0] for each in await rig.loaded()} == {node}
