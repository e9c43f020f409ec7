"""The split from outside: by request, by an edit of the policies, by the operator; on a real worker
with a device."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support import gated_server
from tests.support.control import desired_of
from tests.support.guard import HANG_S
from tests.support.llama import rpc_server
from tests.support.models import model
from tests.support.proxy import Proxy, proxy

LAYERS = 12
POLICIES = """
[devices]
rpc = ["{rpc}"]
settle = "{settle}"
[engine]
threads = 1
[models.m]
path = "{path}"
moe_cpu_layers = {split}
ctx = {ctx}
parallel = 4
"""
BODY = {"model": "m", "prompt": "the quick brown fox", "max_tokens": 12, "temperature": 0}


class Rig:
    """A proxy on a device, whose policies are written from the template above."""

    def __init__(self, rpc: str, folder: Path) -> None:
        self._values = {"rpc": rpc, "path": model(), "settle": "60s", "split": '"full"', "ctx": 512}
        self._folder = folder
        self.proxy: Proxy

    def text(self, **changed: object) -> str:
        self._values |= changed
        return POLICIES.format(**self._values)

    def edit(self, **changed: object) -> None:
        self.proxy.edit(self.text(**changed))

    async def ask(self, **more: object) -> tuple[str, int]:
        """(text, moe_cpu_layers as the answer's header tells it) of one completion."""
        async with self.proxy.session.post("/v1/completions", json=BODY | more) as answer:
            result = await answer.json()
            assert answer.status == 200, result
            layers = int(answer.headers["X-Moe-Proxy-Moe-Cpu-Layers"])
            assert answer.headers["X-Moe-Proxy-Backend"] == "b1"
            return result["choices"][0]["text"], layers

    async def until(self, layers: int) -> None:
        """Wait for a split, and for the record of the move that brought it."""
        services = self.proxy.app.services
        async with asyncio.timeout(HANG_S):
            while (await self.proxy.backend("m"))["moe_cpu_layers"] != layers:
                await asyncio.sleep(0.02)
            await desired_of(services).wait_idle(services.pool.backends())


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rpc_server() as rpc:
        rig = Rig(rpc, tmp_path)
        async with proxy(tmp_path, rig.text()) as rig.proxy:
            yield rig


async def test_every_split_by_request_while_others_stream(rig: Rig) -> None:
    text, layers = await rig.ask()
    assert layers == LAYERS

    async def stream() -> None:
        while True:
            await rig.ask(prompt="others", max_tokens=40, ignore_eos=True)

    others = [asyncio.ensure_future(stream()) for _ in range(3)]
    try:
        for n in (0, 7, 3, 12, 5, 11, 1):
            assert await rig.ask(moe_cpu_layers=n) == (text, n)
            assert not any(task.done() for task in others)
    finally:
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


@pytest.mark.parametrize(
    "form",
    [
        {"options": {"moe_cpu_layers": 4}},
        {"options": {"num_moe_offload": "4"}},
        {"n_cpu_moe": 4},
        {"model": "m?moe_cpu_layers=4"},
    ],
)
async def test_forms_of_the_option(rig: Rig, form: dict[str, object]) -> None:
    assert (await rig.ask(**form))[1] == 4


async def test_words(rig: Rig) -> None:
    for word, layers in (("none", 0), ("full", LAYERS), ("partial", 0), (-1, LAYERS), (99, LAYERS)):
        assert (await rig.ask(moe_cpu_layers=word))[1] == layers


async def test_layers_named_one_by_one(rig: Rig) -> None:
    """By request, by the operator and by the policies; N is past the last of them, and the map of
    layers shows which they are."""
    text, _ = await rig.ask()

    async def on_cpu() -> tuple[set[int], object]:
        backend = await rig.proxy.backend("m")
        return {x["index"] for x in backend["layers"] if x["experts"] == "CPU"}, backend["asked"]

    assert await rig.ask(moe_cpu_layers="0-2,7") == (text, 8)
    assert await on_cpu() == ({0, 1, 2, 7}, "0-2,7")
    assert await rig.ask(model="m?moe_cpu_layers=3,10-99") == (text, 12)
    assert await on_cpu() == ({3, 10, 11}, "3,10-99")

    await rig.proxy.put("/admin/backends/b1/split", {"moe_cpu_layers": "5-5"})
    assert await on_cpu() == ({5}, "5-5")
    rig.edit(split='"0-1,4"')
    await rig.until(5)
    assert await on_cpu() == ({0, 1, 4}, "0-1,4")


async def test_requests_that_ask_for_nothing_take_what_is_there(rig: Rig) -> None:
    await rig.ask(moe_cpu_layers=5)

    assert (await rig.ask())[1] == 5
    assert (await rig.proxy.backend("m"))["asked"] == 5


async def test_a_requests_split_ends_when_the_backend_was_idle_for_settle(rig: Rig) -> None:
    rig.edit(settle="200ms")
    await asyncio.sleep(0.5)
    await rig.ask(moe_cpu_layers=5)

    await rig.until(LAYERS)
    assert (await rig.proxy.backend("m"))["migrations"][-1]["why"] == "settle"


async def test_every_split_by_policy_edit_without_another_prompt(rig: Rig) -> None:
    text, _ = await rig.ask()
    for n in (0, 9, 2, 12, 6):
        rig.edit(split=n)
        await rig.until(n)
        assert await rig.ask() == (text, n)
    state = await rig.proxy.backend("m")
    assert (
        state["migrations"][-1] | {"from": 12, "to": 6, "why": "policy"} == state["migrations"][-1]
    )


async def test_the_operator_counts_more_than_the_policy_until_that_is_edited(rig: Rig) -> None:
    await rig.ask()
    await rig.proxy.put("/admin/backends/b1/split", {"moe_cpu_layers": 3})
    assert (await rig.ask())[1] == 3

    rig.edit(settle="30s")
    await asyncio.sleep(0.5)
    assert (await rig.ask())[1] == 3

    rig.edit(split=8)
    await rig.until(8)


async def test_a_broken_file_changes_nothing_and_is_reported(rig: Rig) -> None:
    await rig.ask()
    good = rig.text()
    rig.proxy.edit(good.replace("moe_cpu_layers", "moe_cpu_layer") + 'parallel = "many"\n')
    async with asyncio.timeout(HANG_S):
        while not (problems := (await rig.proxy.get("/admin/state"))["policies"]["problems"]):
            await asyncio.sleep(0.02)

    assert len(problems) >= 1
    assert (await rig.ask())[1] == LAYERS
    rig.proxy.edit(good.replace('"full"', "2"))
    await rig.until(2)
    assert not (await rig.proxy.get("/admin/state"))["policies"]["problems"]


async def test_a_changed_ctx_starts_the_next_backend_and_loses_no_request(rig: Rig) -> None:
    await rig.ask()
    first = (await rig.proxy.backend("m"))["pid"]
    long = asyncio.ensure_future(rig.ask(max_tokens=200, ignore_eos=True))
    await asyncio.sleep(0.3)
    # The RPC server has one client at a time: the next backend comes after this one has finished.
    rig.edit(ctx=1024)
    async with asyncio.timeout(HANG_S):
        while True:
            backends = (await rig.proxy.get("/admin/state"))["backends"]
            ready = [b for b in backends if b["state"] == "ready"]
            if [b["ctx"] for b in ready] == [1024]:
                break
            await asyncio.sleep(0.05)

    assert ready[0]["pid"] != first
    assert (await long)[1] == LAYERS
    with contextlib.suppress(AssertionError):  # the answers' backend is "b2" now
        await rig.ask()


async def test_another_tune_is_loaded_with_another_batch(rig: Rig) -> None:
    def batch(pid: int) -> str:
        arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        return arguments[arguments.index("--ubatch-size") + 1]

    await rig.ask()
    first = (await rig.proxy.backend("m"))["pid"]
    assert batch(first) == "512"

    rig.proxy.edit(rig.text() + 'tune = "prompt"\n')
    async with asyncio.timeout(HANG_S):
        while True:
            backends = (await rig.proxy.get("/admin/state"))["backends"]
            ready = [b for b in backends if b["state"] == "ready" and b["pid"] != first]
            if ready:
                break
            await asyncio.sleep(0.05)
    assert batch(ready[0]["pid"]) == "1024"


async def test_bad_values_are_named_and_change_nothing(rig: Rig) -> None:
    await rig.ask()
    bad: tuple[object, ...] = (-2, "some", 1.5, True, [])
    for value in bad:
        answer = await rig.proxy.post(
            "/v1/completions", BODY | {"options": {"moe_cpu_layers": value}}, status=400
        )
        assert answer["error"]["param"] in ("moe_cpu_layers", "options.moe_cpu_layers")
        assert '"auto"' in answer["error"]["message"]

    assert (await rig.ask())[1] == LAYERS


async def test_without_live_moves_another_split_is_loaded(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old backend goes first where a request needs another split than the one it was loaded
    with."""
    monkeypatch.setenv("MOE_PROXY_NO_LIVE_MOVES", "1")
    rig.proxy.edit(rig.text().replace("rpc = ", "# rpc = "))
    await asyncio.sleep(0.5)
    async with rig.proxy.session.post(
        "/v1/completions", json=BODY | {"moe_cpu_layers": 4}
    ) as answer:
        assert answer.status == 200, await answer.text()
    refused = await rig.proxy.post(
        "/v1/completions", BODY | {"moe_cpu_layers": "0-2,7"}, status=400
    )
    assert "--n-cpu-moe takes only a number" in refused["error"]["message"]
    loaded = [b for b in (await rig.proxy.get("/admin/state"))["backends"] if b["state"] == "ready"]
    assert "MOE_PROXY_NO_LIVE_MOVES" in loaded[-1]["why_no_moves"] or loaded[-1]["why_no_moves"]


async def test_without_live_moves_each_split_is_loaded_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOE_PROXY_NO_LIVE_MOVES", "1")

    async def ask(split: object) -> tuple[str, int, str]:
        body = BODY | {"moe_cpu_layers": split}
        async with rig.proxy.session.post("/v1/completions", json=body) as answer:
            result = await answer.json()
            assert answer.status == 200, result
            layers = int(answer.headers["X-Moe-Proxy-Moe-Cpu-Layers"])
            return result["choices"][0]["text"], layers, answer.headers["X-Moe-Proxy-Backend"]

    text, layers, first = await ask(0)
    assert layers == 0
    assert await ask("none") == (text, 0, first)
    text_of_all, layers, second = await ask(-1)
    assert (text_of_all, layers) == (text, LAYERS)
    assert second != first
    for same in (LAYERS, "full", "auto", LAYERS + 1):
        assert await ask(same) == (text, LAYERS, second)
    assert (await ask(4))[:2] == (text, 4)


async def test_without_live_moves_the_policys_number_is_loaded_and_so_is_its_edit(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOE_PROXY_NO_LIVE_MOVES", "1")

    async def ask(**more: object) -> tuple[str, str | None]:
        async with rig.proxy.session.post("/v1/completions", json=BODY | more) as answer:
            result = await answer.json()
            assert answer.status == 200, result
            layers = answer.headers.get("X-Moe-Proxy-Moe-Cpu-Layers")
            return result["choices"][0]["text"], layers

    async def until(**values: object) -> None:
        async with asyncio.timeout(HANG_S):
            while True:
                backends = (await rig.proxy.get("/admin/state"))["backends"]
                ready = [b for b in backends if b["state"] == "ready"]
                if len(ready) == 1 and ready[0] | values == ready[0]:
                    return
                await asyncio.sleep(0.02)

    rig.edit(split=5)
    async with asyncio.timeout(HANG_S):
        while (await rig.proxy.get("/admin/state"))["policies"]["generation"] < 2:
            await asyncio.sleep(0.02)
    text, layers = await ask()
    assert layers == "5"
    assert await ask(moe_cpu_layers=2) == (text, "2")
    assert await ask() == (text, "2"), "who asks for nothing takes what is there"

    rig.edit(split=7)
    await until(moe_cpu_layers=7)
    assert await ask() == (text, "7")
    # What says no number leaves all experts on the CPU, and is served.
    for no_number in ('"auto"', '"0-2,7"'):
        rig.edit(split=no_number)
        await until(why_no_moves="MOE_PROXY_NO_LIVE_MOVES is set")
        assert await ask() == (text, None)


async def test_an_edit_of_the_number_starts_a_command_anew(tmp_path: Path) -> None:
    server = Path(gated_server.__file__)
    command = [sys.executable, str(server), "--port", "{port}", "--fail", "no-{moe_cpu_layers}"]

    def text(split: int, ways: str) -> str:
        return (
            f"[models.m]\npath = {str(model())!r}\nengine = 'command'\nsplit = {ways!r}\n"
            f"command = {command}\nmoe_cpu_layers = {split}\n"
        )

    async def splits(app: Proxy) -> list[object]:
        backends = (await app.get("/admin/state"))["backends"]
        return [b["moe_cpu_layers"] for b in backends if b["state"] == "ready"]

    async with proxy(tmp_path, text(2, "move")) as app, asyncio.timeout(HANG_S):
        await app.post("/admin/models/m/load")
        assert await splits(app) == [2]
        app.edit(text(5, "move"))
        while await splits(app) != [5]:
            await asyncio.sleep(0.02)

    # Those that stand side by side on purpose have the split that they were asked for.
    async with proxy(tmp_path, text(2, "separate")) as app, asyncio.timeout(HANG_S):
        await app.post("/admin/models/m/load")
        app.edit(text(5, "separate"))
        while (await app.get("/admin/state"))["policies"]["generation"] < 2:
            await asyncio.sleep(0.02)
        await app.post("/admin/models/m/load")
        assert await splits(app) == [2, 5]
