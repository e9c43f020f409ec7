"""An RPC server for one connection, which ends with whoever has started it."""

import asyncio
import sys
from pathlib import Path

import pytest

from proxy.fleet.rpc import passing
from tests.support.guard import HANG_S, until
from tests.support.rpc_loan import greeted

pytestmark = pytest.mark.llama
# Killed before anybody else could have been told of the server.
STARTER = """
import socket, sys, time
from proxy.fleet.rpc import server

def keep_group(pid):
    print(pid, flush=True)
    time.sleep(600)

server.keep_group = keep_group
server.Server(socket.socket(fileno=int(sys.argv[1])))
"""


@pytest.mark.parametrize("thread", [False, True], ids=["main", "thread"])
async def test_it_ends_with_who_starts_it_from_its_first_moment_on(thread: bool) -> None:
    near, far = passing.pair()
    program = STARTER
    if thread:
        start = "import threading\nthreading.Thread(target=server.Server, args=(taken,)).start()\n"
        program = program.replace("server.Server(socket", "taken = (socket") + start
    with far:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, str(far.fileno())),
            pass_fds=(far.fileno(),),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        async with asyncio.timeout(HANG_S):
            server = int(await process.stdout.readline())
        connection = await asyncio.open_connection(sock=near)
        assert await greeted(connection)

        process.kill()
        await process.wait()

        await until(lambda: not Path(f"/proc/{server}/exe").exists(), "it has ended")
        connection[1].close()
