"""A process whose only other thread hangs: real signals, real pipes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.guard import HANG_S

# Its main thread opens a pipe that nobody writes to, as a disk that is gone would hold it.
HANGS = """
import os, sys
from proxy.cli.signals import Signals
signals = Signals(lambda: print("last words", flush=True))
signals.hear()
told = []
signals.tell(lambda number: print(number.name, flush=True))
print("up", flush=True)
os.open(sys.argv[1], os.O_RDONLY)
"""


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    os.mkfifo(tmp_path / "fifo")
    with subprocess.Popen(
        [sys.executable, "-c", HANGS, str(tmp_path / "fifo")], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert said(process) == "up"
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_it_though_it_hangs(
    hanging: subprocess.Popen[str], second: signal.Signals
) -> None:
    hanging.send_signal(signal.SIGTERM)
    assert said(hanging) == "SIGTERM"
    hanging.send_signal(second)

    assert said(hanging) == second.name
    assert said(hanging) == "last words"
    assert hanging.wait(HANG_S) == 1


def test_the_third_one_ends_it_now(hanging: subprocess.Popen[str]) -> None:
    for _ in range(2):
        hanging.send_signal(signal.SIGINT)
        assert said(hanging) == "SIGINT"
    hanging.send_signal(signal.SIGTERM)

    assert said(hanging) == "last words"
    assert hanging.wait(HANG_S) == 1


def test_a_hangup_is_no_order_to_end(hanging: subprocess.Popen[str]) -> None:
    for _ in range(3):
        hanging.send_signal(signal.SIGHUP)
        assert said(hanging) == "SIGHUP"

    assert hanging.poll() is None
