"""The catalogue follows the policies, and holds up nobody else who does."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.catalog import local
from proxy.catalog.local import Catalog
from proxy.catalog.store import Stores
from proxy.policy.diff import Changes, diff
from proxy.policy.load import parse
from proxy.policy.model import Policies
from proxy.policy.sources import Sources
from proxy.routing.model_dirs import ModelDirs, model_dirs
from tests.support.guard import HANG_S
from tests.support.models import model
from tests.support.proxy import proxy


def policies(folder: Path, text: str) -> Policies:
    sources = Sources(((folder / "p.toml", f"catalog.ollama = false\n{text}".encode()),))
    loaded = parse(sources, {"HOME": str(folder)})
    assert loaded.policies is not None, loaded.problems
    return loaded.policies


class SlowScans:
    """Scans of folders, which end when they may."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may_end = threading.Event()
        self.may_end.set()
        self.begun = 0
        self._scan = local._scan
        monkeypatch.setattr(local, "_scan", self)

    def __call__(self, places: local.Places) -> Any:
        self.begun += 1
        self.may_end.wait(HANG_S)
        return self._scan(places)


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowScans]:
    scans = SlowScans(monkeypatch)
    yield scans
    scans.may_end.set()


class Followed:
    """A catalogue with its policies, which a test edits."""

    def __init__(self, folder: Path, text: str) -> None:
        self._folder = folder
        stores = Stores(folder)
        self.policies = policies(folder, text)
        self.catalog = Catalog(*model_dirs(self.policies, stores))
        self.dirs = ModelDirs(self.catalog, stores)

    async def edit(self, text: str) -> None:
        old, self.policies = self.policies, policies(self._folder, text)
        await self.dirs.policies_changed(old, self.policies, diff(old, self.policies))

    def names(self) -> list[str]:
        return [entry.name for entry in self.catalog.list()]


async def test_only_places_make_it_look_again(tmp_path: Path, scans: SlowScans) -> None:
    (tmp_path / "a.gguf").touch()
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "b.gguf").touch()
    followed = Followed(tmp_path, "models.a.path = 'a.gguf'")
    assert (followed.names(), scans.begun) == (["a"], 1)

    for text in ("", "moe_cpu_layers = 3", "aliases = ['x']\nctx = 5\nparams = { top_k = 1 }"):
        await followed.edit(f"[models.a]\npath = 'a.gguf'\n{text}\n[models.other]\nbase = 'a'")
        await followed.dirs.settled()
    assert scans.begun == 1

    await followed.edit("models.a.path = 'two/b.gguf'\ncatalog.dirs = ['two']")
    await followed.dirs.settled()
    assert (followed.names(), scans.begun) == (["a"], 2)
    await followed.edit("catalog.dirs = ['two']")
    await followed.dirs.settled()
    assert (followed.names(), scans.begun) == (["b"], 3)


async def test_edits_during_a_scan_come_to_the_last_one(tmp_path: Path, scans: SlowScans) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.gguf").touch()
    followed = Followed(tmp_path, "")
    scans.may_end.clear()
    begun = scans.begun

    for name in "abc":
        await followed.edit(f"catalog.dirs = ['{name}']")
        while scans.begun == begun:
            await asyncio.sleep(0)
    waiting = asyncio.create_task(followed.dirs.settled())
    await asyncio.sleep(0)
    assert not waiting.done()
    scans.may_end.set()
    await asyncio.wait_for(waiting, HANG_S)

    assert (followed.names(), scans.begun) == (["c"], begun + 2)


@pytest.mark.llama
async def test_a_slow_scan_holds_up_only_who_needs_its_files(
    tmp_path: Path, scans: SlowScans
) -> None:
    """An edit is in force elsewhere meanwhile; a successor is loaded with what is beside its new
    file."""
    (tmp_path / "new").mkdir()
    new = tmp_path / "new" / "m.gguf"
    new.symlink_to(model(layers=4))
    (tmp_path / "new" / "mmproj-m.gguf").symlink_to(model(layers=2))
    text = "engine.threads = 1\ncatalog.ollama = false\nmodels.m.path = {}\n"
    heard = asyncio.Event()

    async def listener(old: Policies, new: Policies, changes: Changes) -> None:
        heard.set()

    async with (
        asyncio.timeout(HANG_S),
        proxy(tmp_path, text.format(json.dumps(str(model(layers=4))))) as running,
    ):
        services = running.app.services
        services.policies.subscribe(listener)
        await running.post("/admin/models/m/load")
        scans.may_end.clear()
        running.edit(text.format(json.dumps(str(new))))
        await heard.wait()
        assert [backend.options.path for backend in services.pool.backends()] == [model(layers=4)]
        scans.may_end.set()

        while not (later := [b for b in services.pool.backends() if b.options.path == new]):
            await asyncio.sleep(0.01)
    assert later[0].options.projector == tmp_path / "new" / "mmproj-m.gguf"
