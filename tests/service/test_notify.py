"""systemd is told over a real datagram socket."""

import asyncio
import contextlib
import os
import resource
import socket
from pathlib import Path

import pytest

from proxy.service.notify import feed_watchdog, notify, watchdog_interval_s


def test_nobody_to_tell() -> None:
    assert not notify("READY=1", env={})


@pytest.mark.parametrize("abstract", [False, True])
def test_tells_state(tmp_path: Path, abstract: bool) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        name = f"@{tmp_path}/n" if abstract else f"{tmp_path}/n"
        systemd.bind("\0" + name[1:] if abstract else name)

        assert notify("READY=1", env={"NOTIFY_SOCKET": name})
        assert systemd.recv(100) == b"READY=1"


def test_a_socket_that_is_gone_is_no_reason_to_fail(tmp_path: Path) -> None:
    assert not notify("READY=1", env={"NOTIFY_SOCKET": str(tmp_path / "gone")})


def test_a_process_that_may_open_no_more_files_goes_on(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
        told = notify("WATCHDOG=1", env={"NOTIFY_SOCKET": str(tmp_path / "n")})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

    assert not told


def test_a_quarter_of_what_systemd_waits() -> None:
    assert watchdog_interval_s({"WATCHDOG_USEC": "3000000"}) == 0.75
    assert watchdog_interval_s({"WATCHDOG_USEC": "0"}) is None
    assert watchdog_interval_s({}) is None


def test_the_watchdog_of_another_process_is_not_ours_to_feed() -> None:
    env = {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}

    assert watchdog_interval_s(env) == 0.75
    assert watchdog_interval_s(env | {"WATCHDOG_PID": "1"}) is None


async def test_the_watchdog_is_fed_while_clients_get_answers(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "n"))
        systemd.setblocking(False)
        asked: list[float] = []
        answered = iter((True, False, False, True, True))

        async def answers(within_s: float) -> bool:
            asked.append(within_s)
            return next(answered)

        feeding = asyncio.create_task(
            feed_watchdog(0.001, answers, {"NOTIFY_SOCKET": str(tmp_path / "n")})
        )
        told = []
        for _ in range(2):
            told.append(await asyncio.get_running_loop().sock_recv(systemd, 100))
            told.append(str(len(asked)).encode())
        feeding.cancel()
        with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
            await feeding

    assert told[0] == told[2] == b"WATCHDOG=1"
    assert int(told[3]) >= 4, "nothing was said while nobody answered"
    assert set(asked) == {0.001}
