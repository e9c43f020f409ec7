"""A worker that waits, from the outside: what it is told, and when it ends."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.engine.order import WAIT, WAITS
from proxy.engine.worker_command import PROGRAM
from proxy.worker.libraries import default_libdir
from tests.support.guard import HANG_S

pytestmark = pytest.mark.llama


@pytest.fixture
def waiting() -> Iterator["subprocess.Popen[bytes]"]:
    process = started(default_libdir())
    assert process.stdout is not None
    assert process.stdout.readline().decode().strip() == WAITS
    with process:
        yield process
        process.kill()


def started(libdir: Path) -> "subprocess.Popen[bytes]":
    pipe = subprocess.PIPE
    return subprocess.Popen((*PROGRAM, WAIT, str(libdir)), stdin=pipe, stdout=pipe, stderr=pipe)


def test_it_ends_with_its_input(waiting: "subprocess.Popen[bytes]") -> None:
    assert waiting.stdin is not None
    waiting.stdin.close()
    assert waiting.wait(HANG_S) == 0


def test_half_an_order_is_none(waiting: "subprocess.Popen[bytes]") -> None:
    assert waiting.stdin is not None
    waiting.stdin.write(b'{"arguments": [')
    waiting.stdin.close()
    assert waiting.wait(HANG_S) == 0


def test_it_ends_when_it_is_told_to(waiting: "subprocess.Popen[bytes]") -> None:
    waiting.send_signal(signal.SIGTERM)
    assert waiting.wait(HANG_S) == -signal.SIGTERM


def test_without_libraries_it_says_why(tmp_path: Path) -> None:
    process = started(tmp_path)
    _, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == 1
    assert f"{tmp_path}: no libggml-base" in errors.decode()
    assert sys.executable == PROGRAM[0]
