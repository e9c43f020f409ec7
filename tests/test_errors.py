"""What people are told of an error of the system."""

import asyncio
import errno
import os
import socket
import urllib.error
from pathlib import Path

import aiohttp
import pytest

from proxy.errors import reason_of


def test_numbers_are_left_out() -> None:
    assert reason_of(FileNotFoundError(errno.ENOENT, "x", "f")) == "no such file or directory"
    assert reason_of(urllib.error.URLError(OSError(errno.ECONNREFUSED, "x"))) == (
        os.strerror(errno.ECONNREFUSED).lower()
    )
    assert reason_of(OSError("Multiple: [Errno 111] a, [Errno 101] b")) == "Multiple: a, b"
    assert reason_of(socket.gaierror(-2, "Name or service not known")) == (
        "Name or service not known"
    )
    assert reason_of(TimeoutError()) == "no answer in time"
    assert reason_of(ValueError()) == "ValueError"


async def test_what_clients_of_ours_raise() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorError) as refused:
            await session.get(f"http://127.0.0.1:{port}")
    assert reason_of(refused.value) == "connection refused"


async def test_a_file(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError) as error:
        await asyncio.to_thread(tmp_path.read_bytes)
    assert reason_of(error.value) == "is a directory"
