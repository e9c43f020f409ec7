"""The kernel's own word on memory, and what happens where it is not to be had."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.kernel import psi
from proxy.kernel.psi import told_of_pressure, urgent
from tests.support.guard import until


@pytest.fixture
def urgently() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A file with urgent events as the kernel's has them, and its other end, which makes them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as there:
            here, _ = server.accept()
            with here:
                yield here, there


async def test_each_urgent_event_is_told_and_nothing_else(
    urgently: tuple[socket.socket, socket.socket],
) -> None:
    here, there = urgently
    told: list[int] = []

    with urgent(here.fileno(), lambda: told.append(1)):
        there.send(b"readable")
        for _ in range(2):
            told.clear()
            there.send(b"!", socket.MSG_OOB)
            await until(lambda: told, "it is told")
            here.recv(1, socket.MSG_OOB)  # reading it is what ends the event

    count = len(told)
    there.send(b"!", socket.MSG_OOB)
    await asyncio.sleep(0)
    assert len(told) == count, "nothing is told after the block"


async def test_the_kernel_takes_what_we_want_to_be_told(tmp_path: Path) -> None:
    if not psi.PRESSURE.exists():
        pytest.skip("this kernel has no PSI")

    with told_of_pressure(lambda: None) as told:
        assert told


@pytest.mark.parametrize("text", [None, "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"])
async def test_without_psi_it_says_that_nobody_tells(tmp_path: Path, text: str | None) -> None:
    """There is no such file, or one that tells nothing by itself."""
    file = tmp_path / "memory"
    if text is not None:
        file.write_text(text)

    with told_of_pressure(lambda: None, file) as told:
        assert not told


async def test_a_window_that_the_kernel_refuses_is_no_error() -> None:
    with told_of_pressure(lambda: None, stalled_s=9.0, window_s=2.0) as told:
        assert not told
