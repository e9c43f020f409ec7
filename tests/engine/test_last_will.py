"""What becomes of a foreign server when the proxy is killed."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from proxy.engine.last_will import LastWill
from tests.support.commands import GATED
from tests.support.guard import until

# A program that starts such a server, says so, and never ends it.
STARTS = """
import asyncio, sys
from pathlib import Path
from proxy.engine.command import CommandEngine
from proxy.engine.log_buffer import LogBuffer
from proxy.engine.types import LoadOptions
async def main():
    command = ("sh", "-c", '"$@"; true', "sh", *sys.argv[3:])
    stop = ("sh", "-c", "echo {name} > " + sys.argv[2])
    options = LoadOptions("m", Path("no.gguf"), command=command, stop_command=stop)
    engine = CommandEngine("b1", options, log_buffer=LogBuffer())
    await engine.start()
    Path(sys.argv[1]).write_text(str(engine.pid))
    await asyncio.sleep(600)
asyncio.run(main())
"""


def members(group: int, state: str = "Z") -> list[int]:
    """The processes of a group, but for those that nobody has buried yet."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != state:
            found.append(int(file.parent.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_the_server_of_a_dead_proxy_ends(number: signal.Signals, tmp_path: Path) -> None:
    """The whole group, by its stop command and by signals; nothing else is left either."""
    pid, note = tmp_path / "pid", tmp_path / "note"
    ours = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STARTS, str(pid), str(note), *GATED[:-1]), "{port}"
    )
    group = int(await until(lambda: pid.exists() and pid.read_text(), "it serves"))
    assert len(members(group)) == 2

    ours.send_signal(number)
    await ours.wait()

    await until(lambda: not members(group), "nothing of it lives")
    assert note.read_text() == "m\n"


async def test_once_the_server_is_gone_it_harms_nobody() -> None:
    other = await asyncio.create_subprocess_exec("sleep", "600", start_new_session=True)
    will = await LastWill.made(other.pid, (), os.environ, "b1")
    assert will is not None

    await will.revoke()
    await will.revoke()

    assert await will._process.wait() == 0
    assert members(other.pid) == [other.pid]
    os.kill(other.pid, signal.SIGKILL)
    await other.wait()
