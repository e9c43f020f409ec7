"""What is left of a process that ends without warning: real processes, killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.guard import until
from tests.support.serving import runs, until_gone

# Has a shell in a group of its own, which has a child in turn; says their and the guardian's ids.
PARENT = """
import os, subprocess, sys
from proxy.engine import guardian
shell = subprocess.Popen(
    ["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE, start_new_session=True
)
guardian.keep_group(shell.pid)
if "again" in sys.argv:
    guardian._guardian._process.kill()
    guardian._guardian._process.wait()
    guardian.keep_folder(__import__("pathlib").Path(sys.argv[2]))
if "ended" in sys.argv:
    guardian.forget_group(shell.pid)
print(shell.pid, int(shell.stdout.readline()), guardian._guardian._process.pid, flush=True)
if "crash" in sys.argv:
    os.abort()
sys.stdin.read()
"""


def parent(*arguments: str) -> tuple[subprocess.Popen[bytes], tuple[int, int, int]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    shell, child, guardian = map(int, process.stdout.readline().split())
    return process, (shell, child, guardian)


def ignored(pid: int) -> int:
    """The signals that it takes no notice of, as bits."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith("SigIgn"))


@pytest.mark.parametrize("how", ["killed", "stopped", "crash"])
async def test_a_group_ends_with_whoever_started_it(how: str) -> None:
    """A shell's child too, which nobody else would end; and one that is stopped."""
    process, pids = parent(how)
    with process:
        if how == "stopped":
            os.killpg(pids[0], signal.SIGSTOP)
        process.kill()

    await until_gone(*pids)


async def test_a_guardian_that_somebody_ended_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    process, pids = parent("again", str(folder))
    assert runs(pids[2])
    with process:
        process.kill()

    await until_gone(*pids)
    await until(lambda: not folder.exists(), "the folder too")


async def test_what_has_ended_in_time_is_not_killed() -> None:
    """Its number may be another's by now."""
    process, (shell, child, guardian) = parent("ended")
    with process:
        process.kill()

    try:
        await until(lambda: not runs(guardian), "the guardian has done its work")
        assert runs(shell)
        assert runs(child)
    finally:
        os.killpg(shell, signal.SIGKILL)


async def test_a_terminals_signals_do_not_end_it() -> None:
    process, pids = parent()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    wanted = sum(1 << (number - 1) for number in signals)
    await until(lambda: ignored(pids[2]) & wanted == wanted, "it is up")
    with process:
        for number in signals:
            os.kill(pids[2], number)
        process.kill()

    await until_gone(*pids)


# A child that was spawned, and of which nobody has been told yet.
UNNAMED = """
import os, subprocess, sys, time
from proxy.engine import guardian
guardian.keep_folder(__import__("pathlib").Path(sys.argv[1]))
child = subprocess.Popen(
    ["sleep", "600"], env=os.environ | guardian.MARK, start_new_session=True
)
print(child.pid, guardian._guardian._process.pid, flush=True)
sys.stdin.read()
"""


def unnamed(folder: Path) -> tuple[subprocess.Popen[bytes], int, int]:
    process = subprocess.Popen(
        [sys.executable, "-c", UNNAMED, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    child, guardian = map(int, process.stdout.readline().split())
    return process, child, guardian


async def test_who_was_not_named_yet_goes_too(tmp_path: Path) -> None:
    """As one that is stopped before it has looked whether its parent lives."""
    process, child, guardian = unnamed(tmp_path / "folder")
    with process:
        os.kill(child, signal.SIGSTOP)
        process.kill()

    await until_gone(child, guardian)
