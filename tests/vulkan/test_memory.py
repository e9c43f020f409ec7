"""On a GPU's driver: memory that experts took is given back, whoever makes them go, and models that
share a device make way for each other."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.guard import until
from tests.support.hosted import hosted
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy
from tests.support.vulkan import DEVICE, SMALL_BATCHES

pytestmark = [pytest.mark.llama, pytest.mark.asyncio(loop_scope="module")]

LAYERS = 4
MIB = 1 << 20


async def test_the_driver_has_its_bytes_back_after_each_move(backend: Path) -> None:
    """Its memory is this process's, so the process shows it."""
    path = model(layers=LAYERS)
    async with hosted(path, backends=(backend,), ctx=256, parallel=1) as engine:

        async def taken(place: str) -> int:
            await engine.place(dict.fromkeys(range(LAYERS), place))
            return (await engine.memory())["resident_bytes"]

        mapped = Path(f"/proc/{engine.pid}/maps").read_text().splitlines()
        bases = {line.split()[-1] for line in mapped if "libggml-base" in line}
        assert len(bases) == 1, "not also the one that lies beside the backend"
        experts = sum(layer.experts_bytes for layer in engine.known().layers)
        await taken(DEVICE)
        rest = await taken("CPU")
        for _ in range(5):
            assert await taken(DEVICE) > rest + 0.9 * experts
            assert engine.known().held[DEVICE]["experts"] == experts
            assert await taken("CPU") < rest + 0.1 * experts
            assert engine.known().held[DEVICE]["experts"] == 0


class Rig:
    """A proxy with two models alike on one device."""

    def __init__(self, proxy: Proxy, text: "Text") -> None:
        self.proxy, self.text = proxy, text
        self.whole, self.layer = 0, 0  # bytes: a model with all experts on the device; one layer's

    async def ask(self, name: str, tokens: int = 4) -> str:
        body = {"model": name, "prompt": "the quick brown", "max_tokens": tokens}
        answer = await self.proxy.post("/v1/completions", body | {"temperature": 0})
        return str(answer["choices"][0]["text"])

    async def limit(self, size: int | None) -> None:
        await self.proxy.apply(self.text(size))

    async def on_device(self, name: str) -> int:
        layers = (await self.proxy.backend(name))["layers"]
        return sum(layer["experts"] == DEVICE for layer in layers)

    async def held(self) -> int:
        return sum(sum(x["bytes"][DEVICE].values()) for x in await self.proxy.ready())

    async def come_to(self, **layers: int) -> None:
        """Wait until as many layers of each of these models are on the device."""

        async def there() -> bool:
            return {name: await self.on_device(name) for name in layers} == layers

        await until(there, f"{layers} are on the device", self.state)

    async def state(self) -> Any:
        state = await self.proxy.get("/admin/state")
        return state["devices"], [(x["id"], x["bytes"], x["layers"]) for x in state["backends"]]


class Text:
    """The policies with a limit."""

    def __init__(self, backend: Path) -> None:
        self._backend = backend

    def __call__(self, limit: int | None) -> str:
        usual = {"args": SMALL_BATCHES, "ctx": 256, "parallel": 2, "keep_alive": "-1"}
        models = {x: usual | {"path": model(layers=LAYERS, seed=i)} for i, x in enumerate("ab")}
        devices = {"settle": "100ms", "reserve": MIB, "low": MIB, DEVICE: {"limit": limit}}
        return policies(models, engine={"backends": [self._backend]}, devices=devices)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(backend: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    text = Text(backend)
    async with proxy(tmp_path_factory.mktemp("vulkan"), text(None)) as served:
        rig = Rig(served, text)
        await rig.ask("a")
        await rig.come_to(a=LAYERS)
        rig.whole = await rig.held()
        rig.layer = (await served.backend("a"))["layers"][0]["experts_bytes"]
        yield rig


async def test_a_limit_counts_from_its_edit_on(rig: Rig) -> None:
    text, before = await rig.ask("a"), await rig.proxy.backend("a")

    await rig.limit(rig.whole - rig.layer)
    await rig.come_to(a=LAYERS - 1)
    assert await rig.held() <= rig.whole - rig.layer
    assert await rig.ask("a")

    await rig.limit(None)
    await rig.come_to(a=LAYERS)
    assert await rig.ask("a") == text
    assert (await rig.proxy.backend("a"))["pid"] == before["pid"]


async def test_two_models_share_the_device(rig: Rig) -> None:
    """The newcomer makes the first one shrink, and who is idle gives before who is in use."""
    text = await rig.ask("a")
    pid = (await rig.proxy.backend("a"))["pid"]
    # Room for the dense parts of both, and three of their eight layers.
    await rig.limit(room := 2 * rig.whole - 5 * rig.layer)

    assert await rig.ask("b")

    async def made_way() -> bool:
        return await rig.on_device("a") < LAYERS and await rig.held() <= room

    await until(made_way, "the first one has made way", rig.state)
    assert await rig.ask("a")

    await rig.limit(None)
    await rig.come_to(a=LAYERS, b=LAYERS)
    in_use = asyncio.ensure_future(rig.ask("b", tokens=200))

    async def answers() -> bool:
        return bool((await rig.proxy.backend("b"))["in_flight"])

    await until(answers, "b answers", rig.state)
    await rig.limit(2 * rig.whole - 3 * rig.layer)
    await rig.come_to(a=LAYERS - 3, b=LAYERS)
    assert not in_use.done()
    in_use.cancel()

    # A killed one gives all of it back.
    os.kill((await rig.proxy.backend("b"))["pid"], signal.SIGKILL)
    await rig.limit(rig.whole)
    await rig.come_to(a=LAYERS)
    assert await rig.ask("a") == text
    assert (await rig.proxy.backend("a"))["pid"] == pid, "it was there all the time"


async def test_more_clients_than_slots(rig: Rig) -> None:
    text = await rig.ask("a")

    answers = await asyncio.gather(*(rig.ask("a") for _ in range(5)))

    assert {*answers} == {text}
