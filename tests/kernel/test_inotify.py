"""The kernel's word on folders, with real ones."""

import asyncio
import os
from contextlib import closing
from pathlib import Path

import pytest

from proxy.kernel import inotify
from proxy.kernel.inotify import Events, Happened
from tests.support.guard import HANG_S

ALL = inotify.CREATE | inotify.DELETE | inotify.MOVED | inotify.CLOSE_WRITE | inotify.SELF


async def test_what_happens_is_told_with_its_folder(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()

    with closing(Events({one: ALL, two: ALL})) as events:
        (one / "a").touch()
        (two / "below").mkdir()
        (one / os.fsdecode(b"\xff")).touch()
        found = await events.next(HANG_S)

    assert Happened(one, "a", is_folder=False) in found
    assert Happened(two, "below", is_folder=True) in found
    assert Happened(one, "\udcff", is_folder=False) in found


async def test_who_waits_is_woken_by_what_happens_and_by_who_wants_it(tmp_path: Path) -> None:
    with closing(Events({tmp_path: ALL})) as events:
        waiting = asyncio.ensure_future(events.next(HANG_S))
        await asyncio.sleep(0)
        (tmp_path / "a").touch()
        assert {each.name for each in await waiting} == {"a"}
        await events.quiet(0.01, 0.1)

        waiting = asyncio.ensure_future(events.next(HANG_S))
        await asyncio.sleep(0)
        events.wake()
        assert await waiting == []
        events.wake()
        assert await events.next(HANG_S) == []  # also for who comes just then

        assert await events.next(0.001) == []


async def test_a_burst_is_one(tmp_path: Path) -> None:
    with closing(Events({tmp_path: ALL})) as events:
        for number in range(50):
            (tmp_path / str(number)).touch()
        first = await events.next(HANG_S)
        rest = await events.quiet(0.01, 0.1)

    assert {each.name for each in (*first, *rest)} == set(map(str, range(50)))


async def test_what_is_watched_tells_that_it_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()

    with closing(Events({folder: ALL})) as events:
        folder.rmdir()
        found = await events.next(HANG_S)

    assert any(each.folder == folder and not each.name for each in found)


async def test_what_was_lost_concerns_everything(tmp_path: Path) -> None:
    """More than the kernel keeps for who does not read."""
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if most > 1 << 16:
        pytest.skip("this kernel keeps too many")

    with closing(Events({tmp_path: ALL})) as events:
        for number in range(most + 1):  # of the same twice in a row, one is kept
            (tmp_path / f"{number % 2}").write_bytes(b"")
        found = await events.next(HANG_S)

    assert Happened(None, "", is_folder=False) in found


async def test_what_is_not_there_is_left_out_and_no_watch_is_an_error(tmp_path: Path) -> None:
    with closing(Events({tmp_path: ALL, tmp_path / "nowhere": ALL})) as events:
        (tmp_path / "a").touch()
        assert await events.next(HANG_S)

    with pytest.raises(OSError, match="closed"):
        await events.next(HANG_S)
    with pytest.raises(OSError, match=str(tmp_path)):
        Events({tmp_path: 0})


def test_some_file_systems_do_not_tell_of_each_change(tmp_path: Path) -> None:
    with closing(Events({tmp_path: ALL})) as here, closing(Events({Path("/proc"): ALL})) as there:
        assert here.complete
        assert not there.complete
