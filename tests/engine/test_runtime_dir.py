"""Folders that go with their process: real ones, and real processes that die."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.engine.runtime_dir import runtime_dir
from tests.support.guard import until

OWNER = """
import os, sys
from proxy.engine import runtime_dir
if sys.argv[1] == "unguarded":
    runtime_dir.keep_folder = lambda folder: None
with runtime_dir.runtime_dir(os.environ) as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a name that is short enough."""
    with tempfile.TemporaryDirectory(prefix="rt-") as name:
        yield Path(name)


def env(folder: Path) -> dict[str, str]:
    return {"XDG_RUNTIME_DIR": str(folder)}


def owner(folder: Path, how: str) -> tuple[subprocess.Popen[bytes], Path]:
    """A process that has a runtime folder, until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | env(folder),
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().decode().strip())


def test_it_is_ours_alone_and_goes_with_the_block(place: Path) -> None:
    with runtime_dir(env(place)) as folder:
        (folder / "b1.sock").touch()
        assert folder.parent == place
        assert folder.name.startswith("moe-proxy-")
        assert folder.stat().st_mode & 0o777 == 0o700

    assert list(place.iterdir()) == []


def test_a_place_with_a_long_name_is_not_used(place: Path) -> None:
    """Sockets' paths have 107 bytes at most."""
    long = place / ("x" * 80)
    long.mkdir()

    with runtime_dir(env(long)) as folder:
        assert folder.parent == Path("/tmp")


async def test_one_that_is_killed_leaves_nothing(place: Path) -> None:
    process, folder = owner(place, "guarded")
    assert folder.is_dir()

    with process:
        process.kill()

    await until(lambda: not folder.exists(), "its guardian removes it")


def test_what_the_dead_left_is_swept_and_what_lives_is_not(place: Path) -> None:
    """Also where the guardian was killed too, as by the kernel when memory runs out."""
    dead, left = owner(place, "unguarded")
    (left / "b1.sock").touch()
    living, kept = owner(place, "unguarded")
    stopped, waiting = owner(place, "unguarded")
    os.kill(stopped.pid, signal.SIGSTOP)
    with dead:
        dead.kill()
    assert left.exists()

    with living, stopped:
        try:
            with runtime_dir(env(place)) as folder:
                assert sorted(place.iterdir()) == sorted((folder, kept, waiting))
        finally:
            living.kill()
            stopped.kill()


def test_only_what_is_ours_is_swept(place: Path) -> None:
    """In /tmp others can put what looks like one of ours."""
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "lock").touch()
    (place / "moe-proxy-link").symlink_to(elsewhere)
    for name in ("unlocked", "open", "pipe", "linked"):
        (place / f"moe-proxy-{name}").mkdir(mode=0o700)
    (place / "moe-proxy-open/lock").touch()
    (place / "moe-proxy-open").chmod(0o755)
    os.mkfifo(place / "moe-proxy-pipe/lock")
    (place / "moe-proxy-linked/lock").symlink_to(elsewhere / "lock")
    (place / "moe-proxy-file").touch()
    before = sorted(place.iterdir())

    with runtime_dir(env(place)) as folder:
        assert sorted(place.iterdir()) == sorted((*before, folder))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_what_is_another_users_is_left_alone(place: Path) -> None:
    theirs = place / "moe-proxy-theirs"
    theirs.mkdir(mode=0o700)
    (theirs / "lock").touch()
    os.chown(theirs, 12345, 12345)

    with runtime_dir(env(place)):
        assert theirs.exists()
