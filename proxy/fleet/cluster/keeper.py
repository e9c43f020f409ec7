"""Keeps Ray going on a machine that has joined a fleet. Ray there ends when the first machine has
begun again, as it belongs to a cluster that is no more; begun anew, it joins the one that is.

    python -m proxy.fleet.cluster.keeper LOG COMMAND [ARGUMENT ...]
"""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from proxy.tasks import spawn

# Ray's own words, once it has joined.
UP: Final = "Ray runtime started"
# Less than who tells us waits for us.
END_S: Final = 80.0
FIRST_WAIT_S, MOST_WAIT_S = 1.0, 30.0


async def keep(command: Sequence[str], log: Path) -> int:
    """Run it, and again whenever it ends, until we are told to end: its exit status then, or that
    of a first time that did not come to anything. What it says goes to `log`, the last time's."""
    told, was_up, wait_s = asyncio.Event(), False, FIRST_WAIT_S
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    while True:
        with log.open("wb") as out:
            child = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        status = await _end_of(child, told)
        is_up = says_up(log)
        was_up, wait_s = was_up or is_up, FIRST_WAIT_S if is_up else min(2 * wait_s, MOST_WAIT_S)
        if told.is_set() or not was_up:
            return status
        try:
            async with asyncio.timeout(wait_s):
                await told.wait()
                return status
        except TimeoutError:
            pass


def says_up(log: Path) -> bool:
    return UP in log.read_text(errors="replace")


async def _end_of(child: asyncio.subprocess.Process, told: asyncio.Event) -> int:
    """Its exit status, once nothing of its group is left: some of Ray's would wait for the first
    machine."""
    ended, stopped = spawn(child.wait(), name="end"), spawn(told.wait(), name="signal")
    await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not ended.done():
        child.terminate()
        await asyncio.wait((ended,), timeout=END_S)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    return await ended


if __name__ == "__main__":
    sys.exit(asyncio.run(keep(sys.argv[2:], Path(sys.argv[1]))))
