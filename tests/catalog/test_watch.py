import asyncio
import os
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from proxy.catalog import watch
from proxy.catalog.local import Catalog
from proxy.catalog.store import Store
from proxy.clock import RealClock
from proxy.tasks import Loops
from tests.catalog.test_store import put
from tests.support.guard import HANG_S


async def until(catalog: Catalog, *names: str) -> None:
    async def wait() -> None:
        while [entry.name for entry in catalog.list()] != list(names):
            await asyncio.sleep(0.01)

    await asyncio.wait_for(wait(), HANG_S)


@pytest.fixture
async def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Catalog]:
    monkeypatch.setattr(watch, "RECHECK_MS", 200)
    catalog = Catalog([tmp_path / "models"], {}, [Store(tmp_path / "store", "ollama")])
    async with Loops(RealClock()).background(partial(watch.watch, catalog), name="catalog"):
        yield catalog


async def test_models_that_come_and_go(watched: Catalog, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.gguf").write_bytes(b"GGUF")
    await until(watched, "a")

    (tmp_path / "models" / "below").mkdir()
    (tmp_path / "models" / "below" / "b.gguf").write_bytes(b"GGUF")
    await until(watched, "a", "b")

    manifest = put(tmp_path / "store", "registry.ollama.ai/library/c/latest", model=b"GGUF")
    await until(watched, "a", "b", "c:latest")

    manifest.unlink()
    (tmp_path / "models" / "a.gguf").unlink()
    await until(watched, "b")


async def test_a_name_that_is_not_utf8_does_not_end_it(watched: Catalog, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    await asyncio.sleep(0.3)
    Path(os.fsdecode(os.fsencode(tmp_path / "models") + b"/m\xff.gguf")).write_bytes(b"GGUF")
    await asyncio.sleep(0.3)

    (tmp_path / "models" / "a.gguf").write_bytes(b"GGUF")

    await until(watched, "a")


async def test_other_folders_are_followed(watched: Catalog, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    watched.use([other], {})
    await asyncio.sleep(0.3)

    (other / "x.gguf").write_bytes(b"GGUF")

    await until(watched, "x")


async def test_a_look_that_fails_does_not_end_it(
    watched: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    failed, look = asyncio.Event(), watched.refresh
    loop = asyncio.get_running_loop()

    def fail() -> None:
        monkeypatch.setattr(watched, "refresh", look)
        loop.call_soon_threadsafe(failed.set)
        raise MemoryError

    monkeypatch.setattr(watched, "refresh", fail)
    await asyncio.wait_for(failed.wait(), HANG_S)
    (tmp_path / "models" / "a.gguf").write_bytes(b"GGUF")

    await until(watched, "a")
