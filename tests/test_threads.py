"""Threads that hang: real ones, each at a pipe that nobody writes to."""

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.errors import Hangs
from proxy.threads import LANES, SAME, Lane, stuck
from tests.support.guard import HANG_S, until

SOON_S = 0.05  # in which whatever hangs is taken to do so


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Pipe:
    """Whoever opens it hangs until it is opened."""

    def __init__(self, path: Path) -> None:
        self.fifo = path
        os.mkfifo(path)
        self.opened = 0
        self.writers: list[int] = []
        self._lock = threading.Lock()

    def hang(self, path: Path, number: int = 0) -> str:
        with self._lock:
            self.opened += 1
        os.close(os.open(path, os.O_RDONLY))
        return "through"

    def release(self) -> None:
        """Also for who comes yet."""
        self.writers.append(os.open(self.fifo, os.O_RDWR))


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    pipe = Pipe(tmp_path / "fifo")
    yield pipe
    pipe.release()
    for writer in pipe.writers:
        os.close(writer)


async def test_it_gives_what_the_function_gives(tmp_path: Path) -> None:
    lane = Lane("test", within_s=HANG_S)

    def fails() -> None:
        raise TimeoutError("its own")

    assert await lane.run(sorted, [2, 1], reverse=True) == [2, 1]
    with pytest.raises(TimeoutError, match="its own"):
        await lane.run(fails)
    assert lane.stuck() is None


async def test_whoever_waits_is_freed_and_what_hangs_is_told(pipe: Pipe) -> None:
    lane = Lane("test", within_s=SOON_S)

    with pytest.raises(Hangs, match=f"test: no answer within 0.05 s: hang {pipe.fifo}"):
        await lane.run(pipe.hang, pipe.fifo)

    found = await until(lane.stuck, "it is told")
    assert (found.lane, found.threads, found.what) == ("test", 1, f"hang {pipe.fifo}")
    pipe.release()
    await until(lambda: lane.stuck() is None, "it goes on when the disk is back")


async def test_what_hangs_leaves_room_for_others(pipe: Pipe) -> None:
    """However often somebody asks for the same."""
    lane = Lane("test", within_s=SOON_S, threads=SAME + 1)

    for _ in range(3):
        asked = [lane.run(pipe.hang, pipe.fifo) for _ in range(20)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(answer) for answer in answers} == {Hangs}

    assert pipe.opened <= SAME
    assert await lane.run(len, "abc") == 3


async def test_a_lane_that_hangs_as_a_whole_refuses_at_once_and_no_other_one(pipe: Pipe) -> None:
    clock = Clock()
    lane, other = Lane("test", within_s=HANG_S, threads=2, clock=clock), Lane("b", within_s=HANG_S)
    hanging = [asyncio.ensure_future(lane.run(pipe.hang, pipe.fifo, n)) for n in range(2)]
    await until(lambda: pipe.opened == 2, "both threads hang")
    clock.now_s = HANG_S

    with pytest.raises(Hangs):
        await lane.run(len, "abc")
    assert await other.run(len, "abc") == 3
    pipe.release()
    assert await asyncio.gather(*hanging) == ["through"] * 2
    assert await lane.run(len, "abc") == 3


async def test_the_same_is_tried_again_ever_more_seldom(pipe: Pipe) -> None:
    """So a disk that is back is noticed, and one that is not costs few threads."""
    clock = Clock()
    lane = Lane("test", within_s=10.0, clock=clock)
    tries = []

    async def ask() -> None:
        before = pipe.opened
        asking = asyncio.ensure_future(lane.run(pipe.hang, pipe.fifo))
        await asyncio.sleep(0)
        if asking.done():
            assert isinstance(asking.exception(), Hangs)
            return
        await until(lambda: pipe.opened > before, "a thread tries")
        tries.append(clock.now_s)
        asking.cancel()

    while clock.now_s < 1000:
        await ask()
        clock.now_s += 10

    assert tries == [0, 10, 30, 70, 150, 310, 630]


async def test_what_waits_for_its_turn_and_is_given_up_is_not_done(pipe: Pipe) -> None:
    lane = Lane("test", within_s=HANG_S, threads=1)
    done: list[int] = []
    first = asyncio.ensure_future(lane.run(pipe.hang, pipe.fifo))
    await until(lambda: pipe.opened, "the only thread hangs")
    waiting = asyncio.ensure_future(lane.run(done.append, 1))
    await asyncio.sleep(0)

    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    pipe.release()

    assert await first == "through"
    await lane.run(done.append, 2)
    assert done == [2]


def test_nothing_hangs_here() -> None:
    assert stuck() == []
    assert len({lane.name for lane in LANES}) == len(LANES)
