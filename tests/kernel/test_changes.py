"""That files change, told by the kernel itself."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from watchfiles._rust_notify import RustNotify

from proxy.kernel.changes import Changes, told_of_changes
from proxy.threads import Lane
from tests.support.guard import HANG_S, until

STEP_MS = 10
told_of: Callable[..., AbstractAsyncContextManager[Changes]] = partial(
    told_of_changes, debounce_ms=50, step_ms=STEP_MS
)


@pytest.fixture
def lane() -> Lane:
    return Lane("tests", within_s=HANG_S)


@asynccontextmanager
async def toml_in(lane: Lane, *places: Path, below: bool = False) -> AsyncIterator[Changes]:
    async with told_of(places, lambda path: path.endswith(".toml"), lane=lane, below=below) as it:
        yield it


async def test_a_change_is_told_once(tmp_path: Path, lane: Lane) -> None:
    (file := tmp_path / "a.txt").write_text("")
    async with toml_in(lane, tmp_path) as changes:
        file.rename(tmp_path / "a.toml")

        assert await changes.come(HANG_S)
        assert not await changes.come(10 * STEP_MS / 1000)


async def test_what_does_not_matter_is_not_told(tmp_path: Path, lane: Lane) -> None:
    (folder := tmp_path / "folder").mkdir()
    async with toml_in(lane, tmp_path) as changes:
        (tmp_path / "a.txt").write_text("")
        (folder / "below.toml").write_text("")
        assert not await changes.come(10 * STEP_MS / 1000)

        (tmp_path / "a.toml").write_text("")
        assert await changes.come(HANG_S)


async def test_what_is_in_folders_below_is_told_where_that_is_wanted(
    tmp_path: Path, lane: Lane
) -> None:
    (folder := tmp_path / "folder").mkdir()
    async with toml_in(lane, tmp_path, below=True) as changes:
        (folder / "below.toml").write_text("")

        assert await changes.come(HANG_S)


async def test_what_comes_while_nobody_asks_is_kept() -> None:
    changes = Changes()
    changes.tell()
    changes.tell()

    assert await changes.come(0.0)
    assert not await changes.come(0.0)


async def test_a_place_that_is_not_there(tmp_path: Path, lane: Lane) -> None:
    with pytest.raises(FileNotFoundError):
        async with toml_in(lane, tmp_path / "nowhere"):
            pass


async def test_the_event_loop_goes_on_while_folders_are_gone_through(
    tmp_path: Path, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk may be slow, or hang."""
    gone_through = threading.Event()

    def slow(*arguments: Any) -> RustNotify:
        assert gone_through.wait(HANG_S)
        return RustNotify(*arguments)

    monkeypatch.setattr("watchfiles._rust_notify.RustNotify", slow)
    asyncio.get_running_loop().call_later(0.01, gone_through.set)

    async with toml_in(lane, tmp_path) as changes:
        (tmp_path / "a.toml").write_text("")
        assert await changes.come(HANG_S)


async def test_a_watcher_that_fails_says_so_each_time(
    tmp_path: Path, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        def __init__(self, *_: object) -> None: ...

        def watch(self, *_: object) -> None:
            raise RuntimeError("no more")

        def close(self) -> None: ...

    monkeypatch.setattr("watchfiles._rust_notify.RustNotify", Failing)
    async with toml_in(lane, tmp_path) as changes:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="no more"):
                await changes.come(HANG_S)


async def test_its_thread_ends_with_the_block(tmp_path: Path, lane: Lane) -> None:
    def listening() -> bool:
        return any(thread.name == "changes of files" for thread in threading.enumerate())

    async with toml_in(lane, tmp_path):
        assert listening()

    await until(lambda: not listening(), "it has ended")
