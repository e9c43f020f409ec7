"""Workers that wait for a model: who takes one up, and that none is to blame for anything."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy.engine import installed
from proxy.engine.hosted import HostedEngine
from proxy.engine.log_buffer import LogBuffer
from proxy.engine.types import LoadOptions
from proxy.engine.warm import Kind, WarmWorkers, kind_for, kind_of
from proxy.errors import LoadFailed
from tests.support.guard import until
from tests.support.llama import Client
from tests.support.models import model
from tests.support.serving import until_gone

pytestmark = pytest.mark.llama


class Rig:
    """A worker that waits, and engines that may take it up."""

    def __init__(self, folder: Path, warm: WarmWorkers) -> None:
        self._folder, self.warm = folder, warm
        self.log = LogBuffer()

    async def waits(self) -> int:
        """Its pid, once it is ready."""
        self.warm.start(kind())
        await until(lambda: self.warm.ready, "one waits")
        (waiting,) = self.warm._waiting
        assert waiting.child.pid is not None
        return waiting.child.pid

    @contextlib.asynccontextmanager
    async def engine(self, name: str = "b1", **other: Any) -> AsyncIterator[HostedEngine]:
        usual: dict[str, Any] = {
            "model": "m",
            "path": model(layers=4),
            "ctx": 512,
            "parallel": 1,
            "threads": 1,
        }
        options = LoadOptions(**usual | other)
        folder = self._folder
        engine = HostedEngine(
            name, options, runtime_dir=folder, log_buffer=self.log, warm=self.warm
        )
        try:
            yield engine
        finally:
            await engine.stop()


def kind() -> Kind:
    found = kind_of(None, ())
    assert found is not None
    return found


@pytest.fixture
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    warm = WarmWorkers()
    try:
        yield Rig(tmp_path_factory.mktemp("w"), warm)
    finally:
        await warm.end()


async def says(engine: HostedEngine) -> str:
    async with Client(engine.address) as client:
        return await client.text("hello", 4)


async def test_a_load_takes_up_the_one_that_waits_and_is_as_one_of_its_own(rig: Rig) -> None:
    async with rig.engine("b0") as own:
        await own.start()
        text, confined = await says(own), own.confined
    pid = await rig.waits()
    async with rig.engine() as engine:
        await engine.start()

        assert engine.pid == pid
        assert await says(engine) == text
        assert engine.confined == confined
        assert await engine.devices()
        assert not rig.warm.count(kind())
    await until_gone(pid)


async def test_one_that_waits_has_one_thread_and_no_device(rig: Rig) -> None:
    """So it wakes for nothing, and can be confined later as if it had just begun."""
    pid = await rig.waits()
    status = Path(f"/proc/{pid}/status")
    await until(lambda: "State:\tS" in status.read_text(), "it sleeps")
    assert "Threads:\t1\n" in status.read_text()
    opened = [os.readlink(x) for x in Path(f"/proc/{pid}/fd").iterdir()]
    assert not [x for x in opened if x.startswith("/dev/") and x != "/dev/null"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_one_that_is_dead_or_hangs_costs_no_load(
    rig: Rig, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.engine.hosted.TAKEN_WITHIN_S", 0.2)
    pid = await rig.waits()
    os.kill(pid, number)  # nobody has noticed yet
    async with rig.engine() as engine:
        await engine.start()

        assert engine.pid != pid
        assert await says(engine)
        assert engine.cause is None
    await until_gone(pid)


async def test_one_that_dies_while_it_waits_is_missed(rig: Rig) -> None:
    pid = await rig.waits()
    news = asyncio.Event()
    rig.warm.subscribe(news.set)

    os.kill(pid, signal.SIGKILL)

    await news.wait()
    assert (rig.warm.count(kind()), rig.warm.died) == (0, 1)


async def test_two_loads_at_once_and_one_that_waits(rig: Rig) -> None:
    pid = await rig.waits()
    async with rig.engine("b1") as one, rig.engine("b2") as two:
        await asyncio.gather(one.start(), two.start())

        assert pid in (one.pid, two.pid)
        assert one.pid != two.pid
        assert await says(one) == await says(two)


async def test_why_a_load_fails_is_told_as_ever(rig: Rig, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(64))
    reasons = []
    for waits in (False, True):
        if waits:
            await rig.waits()
        async with rig.engine(path=broken) as engine:
            with pytest.raises(LoadFailed) as error:
                await engine.start()
        reasons.append(error.value.message.splitlines()[0])
    assert reasons[0] == reasons[1]
    assert not rig.warm.count(kind()), "it was taken up"


async def test_one_of_another_kind_is_left_alone(rig: Rig, tmp_path: Path) -> None:
    """Other libraries, other variables, a split that nothing may come between."""
    ours = installed.folder("lib")
    assert ours is not None
    copy = tmp_path / "lib"
    shutil.copytree(ours, copy, symlinks=True)
    pid = await rig.waits()
    async with rig.engine("b1", libdir=copy) as other, rig.engine("b2", split=2) as fixed:
        for engine in (other, fixed):
            await engine.start()
            assert engine.pid != pid
    assert rig.warm.count(kind()) == 1

    load = LoadOptions(model="m", path=model(layers=4))
    backend = LoadOptions(model="m", path=model(layers=4), backends=(tmp_path / "libggml-x.so",))
    assert kind_for(load) == kind()
    assert kind_for(backend) != kind(), "it finds ggml by a variable"
    before = kind_of(copy, ())
    (copy / "libllama.so").touch()
    assert kind_of(copy, ()) != before, "these are other libraries by now"


async def test_a_load_that_is_stopped_at_once_leaves_nothing(rig: Rig) -> None:
    pid = await rig.waits()
    async with rig.engine() as engine:
        start = asyncio.ensure_future(engine.start())
        await until(lambda: engine.pid == pid, "it has taken it up")
        await engine.stop(0.0)
        with pytest.raises(LoadFailed):
            await start
    await until_gone(pid)


async def test_those_that_are_too_many_go(rig: Rig) -> None:
    first = await rig.waits()
    rig.warm.start(kind())

    await rig.warm.keep(1, kind())
    assert rig.warm.count(kind()) == 1
    await rig.warm.end()

    await until_gone(first)
    assert not rig.warm.count(kind())
