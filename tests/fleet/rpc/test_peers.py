"""Who is on the other end of a connection on this machine."""

import asyncio
import os
import sys
from contextlib import ExitStack

import pytest

from proxy.fleet.rpc import passing, peers
from tests.support.guard import HANG_S

NAMED = """
import ctypes, sys
ctypes.CDLL(None).prctl(15, b"half a letter\\xc3", 0, 0, 0)
print("named", flush=True)
sys.stdin.read()
"""


async def test_a_process_whose_name_ends_in_half_a_letter_keeps_nobody_out() -> None:
    """The kernel cuts names after 15 bytes."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", NAMED),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    async with asyncio.timeout(HANG_S):
        assert await process.stdout.readline() == b"named\n"

    assert process.pid in peers.descendants(os.getpid())

    process.stdin.close()
    await process.wait()


def test_an_end_that_was_missed_once_is_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        near, _ = (stack.enter_context(each) for each in passing.pair())
        looks = [[], [*peers._ends()]]
        monkeypatch.setattr(peers, "_ends", lambda: looks.pop(0))

        end = peers.other_end(near)

    assert end is not None
    assert end.uid == os.getuid()
