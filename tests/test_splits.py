"""The split from outside: by request, by an edit of the policies, by the operator; on a real worker
with a device."""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from tests.support import gated_server
from tests.support.control import desired_of
from tests.support.guard import until
from tests.support.llama import rpc_server
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy

pytestmark = pytest.mark.llama

LAYERS = 12
BODY = {"model": "m", "prompt": "the quick brown fox", "max_tokens": 12, "temperature": 0}


class Rig:
    """A proxy on a device, with one model."""

    def __init__(self, rpc: str) -> None:
        self._devices: dict[str, object] = {"rpc": [rpc], "settle": "60s"}
        self._model: dict[str, object] = {"path": model(), "moe_cpu_layers": "full", "ctx": 512}
        self._model |= {"parallel": 4}
        self.proxy: Proxy

    def text(self, devices: Mapping[str, object] | None = None, **changed: object) -> str:
        """The policies, with these keys of the devices and of the model changed for good."""
        self._devices |= devices or {}
        self._model |= changed
        return policies({"m": self._model}, devices=self._devices)

    async def edit(self, devices: Mapping[str, object] | None = None, **changed: object) -> None:
        await self.proxy.apply(self.text(devices, **changed))

    async def complete(self, **more: object) -> tuple[str, str | None, str]:
        """The text of a completion, and what its headers tell: moe_cpu_layers, and the backend."""
        async with self.proxy.session.post("/v1/completions", json=BODY | more) as answer:
            result = await answer.json()
            assert answer.status == 200, result
            layers = answer.headers.get("X-Moe-Proxy-Moe-Cpu-Layers")
            return result["choices"][0]["text"], layers, answer.headers["X-Moe-Proxy-Backend"]

    async def ask(self, **more: object) -> tuple[str, int]:
        """The same of the first backend."""
        text, layers, backend = await self.complete(**more)
        assert backend == "b1"
        return text, int(layers or "?")

    async def still(self) -> None:
        """All that was decided until now has been done."""
        services = self.proxy.app.services
        await self.proxy.get("/health")  # what was only spawned has begun by then
        await desired_of(services).wait_idle(services.pool.backends())

    async def until(self, layers: int) -> None:
        """Wait for a split, and for the record of the move that brought it."""

        async def there() -> bool:
            return bool((await self.proxy.backend("m"))["moe_cpu_layers"] == layers)

        await until(there, f"{layers} layers on the CPU")
        await self.still()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rpc_server() as rpc:
        rig = Rig(rpc)
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
    await rig.edit(moe_cpu_layers="0-1,4")
    await rig.until(5)
    assert await on_cpu() == ({0, 1, 4}, "0-1,4")


async def test_requests_that_ask_for_nothing_take_what_is_there(rig: Rig) -> None:
    await rig.ask(moe_cpu_layers=5)

    assert (await rig.ask())[1] == 5
    assert (await rig.proxy.backend("m"))["asked"] == 5


async def test_a_requests_split_ends_when_the_backend_was_idle_for_settle(rig: Rig) -> None:
    await rig.edit({"settle": "200ms"})
    await rig.ask(moe_cpu_layers=5)

    await rig.until(LAYERS)
    assert (await rig.proxy.backend("m"))["migrations"][-1]["why"] == "settle"


async def test_every_split_by_policy_edit_without_another_prompt(rig: Rig) -> None:
    text, _ = await rig.ask()
    for n in (0, 9, 2, 12, 6):
        await rig.edit(moe_cpu_layers=n)
        await rig.until(n)
        assert await rig.ask() == (text, n)
    last = (await rig.proxy.backend("m"))["migrations"][-1]
    assert (last["from"], last["to"], last["why"]) == (12, 6, "policy")


async def test_the_operator_counts_more_than_the_policy_until_that_is_edited(rig: Rig) -> None:
    await rig.ask()
    await rig.proxy.put("/admin/backends/b1/split", {"moe_cpu_layers": 3})
    assert (await rig.ask())[1] == 3

    await rig.edit({"settle": "30s"}, params={"top_k": 1})
    await rig.still()
    assert (await rig.proxy.backend("m"))["asked"] == 3
    assert (await rig.ask())[1] == 3

    await rig.edit(moe_cpu_layers=8)
    await rig.until(8)


async def test_a_broken_file_changes_nothing_and_is_reported(rig: Rig) -> None:
    await rig.ask()
    good = rig.text()
    one = good.replace("moe_cpu_layers", "moe_cpu_layer")
    rig.proxy.edit(one.replace("parallel = 4", 'parallel = "many"'))

    async def told() -> list[dict[str, object]]:
        return list((await rig.proxy.get("/admin/state"))["policies"]["problems"])

    problems = await until(told, "problems are shown")
    assert [p["key"] for p in problems] == ["models.m.moe_cpu_layer", "models.m.parallel"]
    await rig.still()
    assert (await rig.ask())[1] == LAYERS
    await rig.edit(moe_cpu_layers=2)
    await rig.until(2)
    assert not await told()


async def test_a_changed_ctx_starts_the_next_backend_and_loses_no_request(rig: Rig) -> None:
    await rig.ask()
    first = await rig.proxy.backend("m")
    long = asyncio.ensure_future(rig.ask(max_tokens=200, ignore_eos=True))

    async def under_way() -> bool:
        return bool((await rig.proxy.backend("m"))["in_flight"])

    await until(under_way, "a request is served")
    # The RPC server has one client at a time: the next backend comes after this one has finished.
    rig.proxy.edit(rig.text(ctx=1024))
    second = await rig.proxy.until_ready(ctx=1024)

    assert second["pid"] != first["pid"]
    assert (await long)[1] == LAYERS
    assert (await rig.complete())[2] == second["id"] != first["id"]


async def test_another_tune_is_loaded_with_another_batch(rig: Rig) -> None:
    def batch(backend: Mapping[str, object]) -> str:
        arguments = Path(f"/proc/{backend['pid']}/cmdline").read_text().split("\0")
        return arguments[arguments.index("--ubatch-size") + 1]

    await rig.ask()
    assert batch(await rig.proxy.backend("m")) == "512"

    rig.proxy.edit(rig.text(tune="prompt"))
    assert batch(await rig.proxy.until_ready(id="b2")) == "1024"


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
    """The old backend goes first, since both need the device. Ranges cannot be loaded."""
    monkeypatch.setenv("MOE_PROXY_NO_LIVE_MOVES", "1")
    text, _, old = await rig.complete()
    assert (await rig.proxy.backend("m"))["why_no_moves"] == "MOE_PROXY_NO_LIVE_MOVES is set"

    assert await rig.complete(moe_cpu_layers=4) == (text, "4", "b2")
    refused = await rig.proxy.post(
        "/v1/completions", BODY | {"moe_cpu_layers": "0-2,7"}, status=400
    )

    assert "--n-cpu-moe takes only a number" in refused["error"]["message"]
    lives = [
        (event.kind, event.fields["backend"])
        for event in rig.proxy.app.services.events.since(0)
        if event.kind in ("backend_ready", "backend_gone")
    ]
    assert lives == [("backend_ready", old), ("backend_gone", old), ("backend_ready", "b2")]
    assert (await rig.proxy.backend("m"))["why_no_moves"] == "it was loaded with a fixed split"


async def test_without_live_moves_each_split_is_loaded_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOE_PROXY_NO_LIVE_MOVES", "1")

    text, layers, first = await rig.complete(moe_cpu_layers=0)
    assert layers == "0"
    assert await rig.complete(moe_cpu_layers="none") == (text, "0", first)
    text_of_all, layers, second = await rig.complete(moe_cpu_layers=-1)
    assert (text_of_all, layers) == (text, str(LAYERS))
    assert second != first
    for same in (LAYERS, "full", "auto", LAYERS + 1):
        assert await rig.complete(moe_cpu_layers=same) == (text, str(LAYERS), second)
    assert (await rig.complete(moe_cpu_layers=4))[:2] == (text, "4")


async def test_without_live_moves_the_policys_number_is_loaded_and_so_is_its_edit(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOE_PROXY_NO_LIVE_MOVES", "1")
    await rig.edit(moe_cpu_layers=5)
    text, layers, _ = await rig.complete()
    assert layers == "5"
    assert (await rig.complete(moe_cpu_layers=2))[:2] == (text, "2")
    assert (await rig.complete())[:2] == (text, "2"), "who asks for nothing takes what is there"

    rig.proxy.edit(rig.text(moe_cpu_layers=7))
    before = (await rig.proxy.until_ready(moe_cpu_layers=7))["id"]
    assert await rig.complete() == (text, "7", before)
    # What says no number leaves all experts on the CPU, and is served.
    for no_number in ("auto", "0-2,7"):
        rig.proxy.edit(rig.text(moe_cpu_layers=no_number))
        await rig.proxy.until_ready(why_no_moves="MOE_PROXY_NO_LIVE_MOVES is set")
        assert (await rig.complete())[:2] == (text, None)


async def test_an_edit_of_the_number_starts_a_command_anew(tmp_path: Path) -> None:
    server = Path(gated_server.__file__)
    command = [sys.executable, str(server), "--port", "{port}", "--fail", "no-{moe_cpu_layers}"]
    usual = {"path": model(), "engine": "command", "command": command}

    def text(split: int, ways: str) -> str:
        return policies({"m": usual | {"split": ways, "moe_cpu_layers": split}})

    async def splits(app: Proxy) -> list[object]:
        return [backend["moe_cpu_layers"] for backend in await app.ready()]

    async with proxy(tmp_path, text(2, "move")) as app:
        await app.post("/admin/models/m/load")
        assert await splits(app) == [2]
        app.edit(text(5, "move"))

        async def anew() -> bool:
            return await splits(app) == [5]

        await until(anew, "only the new one is there")

    # Those that stand side by side on purpose have the split that they were asked for.
    async with proxy(tmp_path, text(2, "separate")) as app:
        await app.post("/admin/models/m/load")
        await app.apply(text(5, "separate"))
        await app.post("/admin/models/m/load")
        assert await splits(app) == [2, 5]
