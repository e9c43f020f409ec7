"""From what a worker is kept: decided for itself, and by this kernel."""

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.worker import landlock
from proxy.worker.confine import Needs, confine, level, needs_of, prepare

CACHE = {"HOME": "/h", "PATH": "/nowhere"}


def kernel() -> int:
    try:
        return landlock.version()
    except OSError:
        return 0


VERSION = kernel()
with_landlock = pytest.mark.skipif(not VERSION, reason="this kernel has no Landlock")


# --- what is decided ---


def test_only_the_servers_that_it_computes_on_are_reached() -> None:
    arguments = ("--model", "m", "--rpc", "10.0.0.2:50052,[::1]:7")

    assert needs_of(Path("/f"), arguments, (), CACHE).ports == (50052, 7)
    assert needs_of(Path("/f"), ("--model", "m"), (), CACHE).ports == ()


def test_the_folder_for_saved_conversations_is_its_own_too() -> None:
    arguments = ("--model", "m", "--slot-save-path", "/saved")

    assert Path("/saved") in needs_of(Path("/f"), arguments, (), CACHE).folders


def test_drivers_may_keep_what_they_compile_and_no_more_of_the_home_folder() -> None:
    def folders(*backends: str, **env: str) -> list[str]:
        found = needs_of(Path("/f"), (), backends, CACHE | env).caches
        return [
            str(path) for path in found if str(path) not in ("/f", "/dev/shm", "/tmp/nvidia-mps")
        ]

    assert folders() == []
    assert folders("cuda", "rpc") == ["/h/.nv"]
    assert "/h/.cache/mesa_shader_cache" in folders("vulkan")
    assert "/c/mesa_shader_cache" in folders("vulkan", XDG_CACHE_HOME="/c")
    assert folders("cuda", CUDA_CACHE_PATH="/mine") == ["/mine", "/h/.nv"]
    assert folders("cuda", HOME="") == []
    assert not {"/h", "/h/.cache", "/c"} & set(folders("vulkan", "cuda", "hip", "sycl"))


def test_devices_are_opened_for_writing_and_not_replaced() -> None:
    needs = needs_of(Path("/f"), (), (), CACHE)

    assert {Path("/dev/null"), Path("/proc/self/task")} <= set(needs.files)
    assert Path("/dev") not in (*needs.files, *needs.folders)


def test_a_model_that_sees_needs_a_program_for_some_pictures(tmp_path: Path) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    env = {"PATH": str(tmp_path)}

    assert needs_of(Path("/f"), ("--mmproj", "p.gguf"), (), env).programs
    assert not needs_of(Path("/f"), ("--model", "m"), (), env).programs
    assert not needs_of(Path("/f"), ("--mmproj", "p.gguf"), (), CACHE).programs


@pytest.mark.parametrize(
    ("version", "programs", "text"),
    [
        (1, False, "files (but for cutting them short), programs"),
        (3, False, "files, programs"),
        (4, False, "files, programs, tcp"),
        (7, False, "files, programs, tcp, signals"),
        (7, True, "files, tcp, signals"),
    ],
)
def test_how_far_is_told(version: int, programs: bool, text: str) -> None:
    assert level(version, programs=programs) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOSYS, "no: this kernel has no Landlock"),
        (errno.EOPNOTSUPP, "no: Landlock is off in this kernel (lsm= on its command line)"),
        (errno.EPERM, "no: the kernel refuses it: Operation not permitted"),
    ],
)
def test_a_kernel_that_cannot_is_no_reason_not_to_serve(number: int, text: str) -> None:
    def version() -> int:
        raise OSError(number, os.strerror(number))

    assert confine(Needs((), (), (), False), find_version=version) == text


def test_threads_that_run_already_would_not_be_confined() -> None:
    """As here: the tests have several."""
    event = threading.Event()
    other = threading.Thread(target=event.wait)
    other.start()
    try:
        assert confine(Needs((), (), (), False), find_version=lambda: 1).startswith("no: ")
    finally:
        event.set()
        other.join()


def test_what_could_not_be_made_later_is_there_before(tmp_path: Path) -> None:
    read_only = Path("/proc/no/such/folder")
    gone = tmp_path / "of a proxy that is gone" / "b1"
    caches = (tmp_path / "a" / "b", tmp_path / ".nv", read_only)

    prepare(Needs((gone,), (), (), False, caches), ())

    assert not gone.parent.exists(), "nobody would remove it"
    assert (tmp_path / "a" / "b").is_dir()
    assert (tmp_path / ".nv").exists() == Path("/dev/nvidiactl").exists()


def test_the_program_that_makes_nvidias_devices_is_run_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could not be, later."""
    if Path("/dev/nvidia-uvm").exists():
        pytest.skip("its device is there")
    program = tmp_path / "nvidia-modprobe"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/ran\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    prepare(Needs((), (), (), False), ("rpc",))
    assert not (tmp_path / "ran").exists()
    prepare(Needs((), (), (), False), ("cuda",))
    assert (tmp_path / "ran").read_text() == "-u -c=0\n"


# --- what this kernel makes of it ---

# Tries each thing, and prints what came of it.
TRY = """
import json, os, signal, socket, subprocess, sys, threading
from pathlib import Path
from proxy.worker.confine import Needs, confine

own, other, port, closed, version = sys.argv[1:]
port, closed, version = int(port), int(closed), int(version)
held = open(other + "/held", "w")
files = (Path("/dev/null"), Path("/proc/self/task"))
needs = Needs((Path(own), Path("/no/such")), files, (port,), False)
told = confine(needs, find_version=lambda: version)

def connect(to):
    socket.create_connection(("127.0.0.1", to), 10).close()

def bind():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))

def in_a_thread():
    found = []
    def run():
        try:
            Path(other, "of-a-thread").write_text("x")
        except OSError as error:
            found.append(error)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if found:
        raise found[0]

def own_socket():
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(own + "/s.sock")
        s.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(own + "/s.sock")

tries = {
    "read": lambda: Path(other, "there").read_text(),
    "write own": lambda: Path(own, "x").write_text("x"),
    "rename own": lambda: os.rename(own + "/x", own + "/y"),
    "remove own": lambda: os.unlink(own + "/y"),
    "folder own": lambda: os.mkdir(own + "/d"),
    "socket own": own_socket,
    "null": lambda: Path("/dev/null").write_text("x"),
    "name of a thread": lambda: Path(f"/proc/self/task/{os.getpid()}/comm").write_text("t"),
    "what was open": lambda: (held.write("x"), held.flush()),
    "write": lambda: Path(other, "new").write_text("x"),
    "overwrite": lambda: Path(other, "there").write_text("x"),
    "cut short": lambda: os.truncate(other + "/there", 0),
    "remove": lambda: os.unlink(other + "/there"),
    "link": lambda: os.symlink("a", other + "/link"),
    "folder": lambda: os.mkdir(other + "/folder"),
    "out of its folder": lambda: os.rename(own + "/d", other + "/d"),
    "in a thread": in_a_thread,
    "run": lambda: subprocess.run(["/bin/sh", "-c", "exit 0"], check=True),
    "connect to rpc": lambda: connect(port),
    "connect": lambda: connect(closed),
    "listen": bind,
    "signal": lambda: os.kill(os.getppid(), 0),
}
found = {}
for name, do in tries.items():
    try:
        do()
        found[name] = True
    except OSError:
        found[name] = False
print(json.dumps([told, found]))
"""
MAY = {
    *("read", "write own", "rename own", "remove own", "folder own", "socket own", "null"),
    *("name of a thread", "what was open", "connect to rpc"),
}


@pytest.fixture
def tried(tmp_path: Path) -> Callable[[int], tuple[str, dict[str, bool]]]:
    """What came of each try of a process that was confined as by this version of Landlock."""

    def run(version: int) -> tuple[str, dict[str, bool]]:
        own, other = tmp_path / "own", tmp_path / "other"
        own.mkdir()
        other.mkdir()
        (other / "there").write_text("text")
        with (
            socket.create_server(("127.0.0.1", 0)) as rpc,
            socket.create_server(("127.0.0.1", 0)) as closed,
        ):
            ports = [str(s.getsockname()[1]) for s in (rpc, closed)]
            command = [sys.executable, "-c", TRY, str(own), str(other), *ports, str(version)]
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        told, found = json.loads(ended.stdout)
        return told, found

    return run


@with_landlock
def test_it_may_do_what_serving_takes_and_nothing_else(tried: Any) -> None:
    told, found = tried(VERSION)

    assert told == level(VERSION, programs=False)
    newer = {"connect": 4, "listen": 4, "signal": 6, "cut short": 3}
    allowed = {name for name, done in found.items() if done}
    assert allowed == MAY | {name for name, since in newer.items() if since > VERSION}


@with_landlock
@pytest.mark.parametrize("version", range(1, 7))
def test_an_older_kernel_keeps_it_from_less(tried: Any, version: int) -> None:
    """As if this one were that old: a kernel refuses what it does not know, so it is not asked."""
    if version > VERSION:
        pytest.skip(f"this kernel has version {VERSION}")
    told, found = tried(version)

    assert told == level(version, programs=False)
    never = ("write", "overwrite", "remove", "link", "folder", "run")
    assert [name for name in never if found[name]] == []
    assert not found["in a thread"]
    assert not found["out of its folder"]
    assert found["cut short"] == (version < 3)
    assert found["connect"] == found["listen"] == (version < 4)
    assert found["signal"] == (version < 6)
    assert all(found[name] for name in MAY)
