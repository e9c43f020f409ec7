"""The real watcher on real folders."""

import asyncio
import os
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from watchfiles._rust_notify import RustNotify

from proxy.catalog import watch
from proxy.catalog.local import Catalog
from proxy.catalog.store import Store
from proxy.clock import RealClock
from proxy.tasks import Loops
from tests.catalog.test_store import put
from tests.support.guard import HANG_S, until


class Watched:
    """A catalogue with a watcher, and the folders that it has begun to watch, each time anew."""

    def __init__(self, root: Path) -> None:
        self.models = root / "models"
        self.store = Store(root / "store", "ollama")
        self.catalog = Catalog([self.models], {}, [self.store])
        self.begun: list[set[str]] = []

    def watches(self, paths: list[str], *more: Any) -> RustNotify:
        made = RustNotify(paths, *more)
        self.begun.append(set(paths))
        return made

    async def lists(self, *names: str) -> None:
        await until(lambda: [e.name for e in self.catalog.list()] == [*names], f"{names}")

    async def is_watching(self, *folders: Path, times: int = 1) -> None:
        """Wait until it has begun to watch these and no others, so many times."""
        wanted = set(map(str, folders))
        await until(lambda: self.begun.count(wanted) >= times, f"it watches {wanted}")


@pytest.fixture
async def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    monkeypatch.setattr(watch, "RECHECK_S", 0.2)
    watched = Watched(tmp_path)
    monkeypatch.setattr("watchfiles._rust_notify.RustNotify", watched.watches)
    run = partial(watch.watch, watched.catalog)
    async with Loops(RealClock()).background(run, name="catalog"):
        yield watched


async def test_models_that_come_and_go(watched: Watched) -> None:
    watched.models.mkdir()
    (watched.models / "a.gguf").write_bytes(b"GGUF")
    await watched.lists("a")
    await watched.is_watching(watched.models)

    (watched.models / "below").mkdir()
    (watched.models / "below" / "b.gguf").write_bytes(b"GGUF")
    await watched.lists("a", "b")

    manifest = put(watched.store.root, "registry.ollama.ai/library/c/latest", model=b"GGUF")
    await watched.lists("a", "b", "c:latest")
    await watched.is_watching(watched.models, watched.store.manifests)

    manifest.unlink()
    (watched.models / "a.gguf").unlink()
    await watched.lists("b")


async def test_a_name_that_is_not_utf8_does_not_end_it(watched: Watched) -> None:
    watched.models.mkdir()
    await watched.is_watching(watched.models)
    Path(os.fsdecode(os.fsencode(watched.models) + b"/m\xff.gguf")).write_bytes(b"GGUF")
    await watched.is_watching(watched.models, times=2)

    (watched.models / "a.gguf").write_bytes(b"GGUF")

    await watched.lists("a")


async def test_other_folders_are_followed(watched: Watched, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    watched.catalog.use([other], {})
    await watched.is_watching(other)

    (other / "x.gguf").write_bytes(b"GGUF")

    await watched.lists("x")


async def test_a_look_that_fails_does_not_end_it(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed, look = asyncio.Event(), watched.catalog.refresh
    loop = asyncio.get_running_loop()

    def fail() -> None:
        monkeypatch.setattr(watched.catalog, "refresh", look)
        loop.call_soon_threadsafe(failed.set)
        raise MemoryError

    monkeypatch.setattr(watched.catalog, "refresh", fail)
    watched.models.mkdir()
    await asyncio.wait_for(failed.wait(), HANG_S)
    (watched.models / "a.gguf").write_bytes(b"GGUF")

    await watched.lists("a")


async def test_a_model_that_comes_between_looking_and_watching_is_seen(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[int] = []

    def begin(paths: list[str], *more: Any) -> RustNotify:
        if not late:
            late.append((watched.models / "late.gguf").write_bytes(b"GGUF"))
        return watched.watches(paths, *more)

    monkeypatch.setattr("watchfiles._rust_notify.RustNotify", begin)
    watched.models.mkdir()

    await watched.lists("late")
