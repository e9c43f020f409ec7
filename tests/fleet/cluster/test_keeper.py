"""What keeps Ray going, with a program that says what Ray says."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from proxy.fleet.cluster.keeper import UP
from tests.support.guard import HANG_S
from tests.support.serving import runs

# It says which time this is, whether it is up, and ends or stays.
PROGRAM = f"""
import os, subprocess, sys, time
from pathlib import Path
file = Path(sys.argv[1])
with file.open("a") as stream:
    stream.write(f"{{os.getpid()}}\\n")
time_ = len(file.read_text().splitlines())
if str(time_) not in sys.argv[2]:
    sys.exit(3)
subprocess.Popen(("sleep", str({HANG_S})))  # as Ray's, it does not end with who has started it
print({UP!r}, flush=True)
time.sleep({HANG_S} if str(time_) not in sys.argv[3] else 0)
"""


def begin(folder: Path, up: str, ends: str) -> "subprocess.Popen[bytes]":
    """In which of its times the program comes up, and in which of these it ends by itself."""
    kept = (sys.executable, "-c", PROGRAM, str(folder / "pids"), up, ends)
    keeper = (sys.executable, "-m", "proxy.fleet.cluster.keeper", str(folder / "log"), *kept)
    return subprocess.Popen(keeper, start_new_session=True)


def eventually(fact: Callable[[], bool]) -> None:
    end_s = time.monotonic() + HANG_S
    while not fact():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def _has_group(pid: int) -> bool:
    """Whether anything of a process' group is left."""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pids(folder: Path) -> list[int]:
    file = folder / "pids"
    return [*map(int, file.read_text().split())] if file.exists() else []


def test_what_ends_is_begun_again_until_it_is_told_to_end(tmp_path: Path) -> None:
    with begin(tmp_path, up="13", ends="1") as keeper:  # the second time it comes to nothing
        eventually(lambda: len(pids(tmp_path)) == 3 and UP in (tmp_path / "log").read_text())
        keeper.send_signal(signal.SIGTERM)

        assert keeper.wait(HANG_S) == -signal.SIGTERM % 256
    assert not any(map(runs, pids(tmp_path)))
    eventually(lambda: not any(map(_has_group, pids(tmp_path))))


def test_it_ends_between_two_times_too(tmp_path: Path) -> None:
    with begin(tmp_path, up="1", ends="1") as keeper:
        eventually(lambda: len(pids(tmp_path)) == 2 and not runs(pids(tmp_path)[-1]))
        keeper.send_signal(signal.SIGTERM)
        keeper.wait(HANG_S)
    assert len(pids(tmp_path)) in (2, 3)


def test_a_first_time_that_comes_to_nothing_is_the_last(tmp_path: Path) -> None:
    with begin(tmp_path, up="2", ends="") as keeper:
        assert keeper.wait(HANG_S) == 3
    assert len(pids(tmp_path)) == 1
