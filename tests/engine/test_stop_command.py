"""What a policy names to stop a server: when it is run, and how long it may take."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from proxy.engine import command as module
from proxy.engine.command import CommandEngine
from proxy.engine.log_buffer import LogBuffer
from proxy.engine.types import LoadOptions
from proxy.errors import LoadFailed
from tests.support.commands import GATED
from tests.support.guard import until
from tests.support.serving import pid_of

# As a client of a daemon does: what serves is not its child's group, and does not end with it.
ELSEWHERE = (
    "import os, subprocess, sys, time\n"
    "server = subprocess.Popen(sys.argv[2:], start_new_session=True)\n"
    "open(sys.argv[1], 'w').write(str(server.pid))\n"
    "server.wait()\n"
)
HANGS = "sleep 600 & echo $! > {note}; wait"


def engine(tmp_path: Path, *stop: str, argv: tuple[str, ...] = GATED) -> CommandEngine:
    options = LoadOptions("m", tmp_path / "no.gguf", command=argv, stop_command=stop)
    return CommandEngine("b1", options, log_buffer=LogBuffer())


def elsewhere(note: Path) -> tuple[str, ...]:
    return (sys.executable, "-c", ELSEWHERE, str(note), *GATED)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


async def test_it_stops_what_no_signal_of_ours_reaches(tmp_path: Path) -> None:
    """And its server may go its own way: it got no signal of ours."""
    note = tmp_path / "pid"
    it = engine(tmp_path, "sh", "-c", f"kill -9 $(cat {note}); true", argv=elsewhere(note))
    await it.start()
    server = int(note.read_text())
    assert alive(server)

    await it.stop()

    assert await it.wait_exit() == 0
    assert not alive(server)


@pytest.mark.parametrize("how", ["killed", "killed by us", "does not come up"])
async def test_it_clears_up_after_a_process_that_is_gone(how: str, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    stop = f"kill -9 $(cat {note})"
    argv = elsewhere(note)
    if how == "does not come up":
        argv = ("sh", "-c", f"setsid sleep 600 & echo $! > {note}; exit 1")
    it = engine(tmp_path, "sh", "-c", stop, argv=argv)
    if how == "does not come up":
        with pytest.raises(LoadFailed):
            await it.start()
        await it.stop()
    else:
        await it.start()
        if how == "killed":
            os.kill(pid_of(it), 9)
        else:
            await it.stop(0.0)
        assert await it.wait_exit() == -9

    await until(lambda: not alive(int(note.read_text())), "it is gone")


async def test_it_is_told_what_it_has_to_know_and_runs_once(tmp_path: Path) -> None:
    note = tmp_path / "note"
    it = engine(tmp_path, "sh", "-c", f"echo {{pid}} {{port}} {{name}} >> {note}; kill {{pid}}")
    await it.start()

    await asyncio.gather(it.stop(), it.stop(), it.wait_exit())
    await it.stop(0.0)

    assert note.read_text() == f"{it.pid} {it.address.port} m\n"


async def test_a_number_that_may_be_somebody_elses_is_told_nobody(tmp_path: Path) -> None:
    note = tmp_path / "note"
    it = engine(tmp_path, "sh", "-c", f"echo {{pid}} > {note}")
    await it.start()
    os.kill(pid_of(it), 9)

    await it.wait_exit()
    await it.stop()

    assert not note.exists()


@pytest.mark.parametrize("stop", ["exit 3", "hangs", "is not there", "does nothing"])
async def test_signals_come_all_the_same(
    stop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STOP_COMMAND_S", 1.0 if stop == "hangs" else 600.0)
    note = tmp_path / "pid"
    script = {"hangs": HANGS.replace("{note}", str(note)), "does nothing": "true"}.get(stop, stop)
    argv = (str(tmp_path / "none"),) if stop == "is not there" else ("sh", "-c", script)
    it = engine(tmp_path, *argv)
    await it.start()

    await it.stop(0.1)

    assert await it.wait_exit() in (-15, -9)
    if note.exists():
        await until(lambda: not alive(int(note.read_text())), "what it ran is gone")


async def test_who_wants_it_to_end_at_once_does_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STOP_COMMAND_S", 600.0)
    monkeypatch.setattr(module, "STOP_COMMAND_AT_ONCE_S", 0.1)
    note = tmp_path / "pid"
    it = engine(tmp_path, "sh", "-c", HANGS.replace("{note}", str(note)))
    await it.start()
    stopping = asyncio.ensure_future(it.stop())
    pid = int(await until(lambda: note.exists() and note.read_text(), "it runs"))

    await it.stop(0.0)

    assert await it.wait_exit() == -9
    await until(lambda: not alive(pid), "what it ran is gone")
    await stopping


# A program that starts such a server, says so, and never ends it.
STARTS = """
import asyncio, sys
from pathlib import Path
from proxy.engine.command import CommandEngine
from proxy.engine.log_buffer import LogBuffer
from proxy.engine.types import LoadOptions
async def main():
    command = ("sh", "-c", '"$@"; true', "sh", *sys.argv[3:])
    stop = ("sh", "-c", "echo $WHO {name} > " + sys.argv[2])
    env = (("WHO", "you"), ("LONG", "x" * 100_000))  # more than a pipe holds
    options = LoadOptions("m", Path("no.gguf"), command=command, stop_command=stop, env=env)
    engine = CommandEngine("b1", options, log_buffer=LogBuffer())
    await engine.start()
    Path(sys.argv[1]).write_text(str(engine.pid))
    await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_it_is_run_where_the_proxy_is_killed(number: signal.Signals, tmp_path: Path) -> None:
    """What serves may run elsewhere, where no signal to its group reaches it."""
    pid, note = tmp_path / "pid", tmp_path / "note"
    ours = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STARTS, str(pid), str(note), *GATED[:-1]), "{port}"
    )
    group = int(await until(lambda: pid.exists() and pid.read_text(), "it serves"))
    assert not note.exists()

    ours.send_signal(number)
    await ours.wait()

    await until(lambda: note.exists() and note.read_text() == "you m\n", "it was stopped")
    await until(lambda: not alive(group), "and its process is gone")


async def test_once_it_has_run_it_is_not_run_again(tmp_path: Path) -> None:
    note = tmp_path / "note"
    program = STARTS.replace("await asyncio.sleep(600)", "await engine.stop()")
    program = program.replace(" > ", " >> ")
    ours = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, str(tmp_path / "pid"), str(note), *GATED[:-1]), "{port}"
    )
    assert await ours.wait() == 0

    assert note.read_text() == "you m\n"


# Two engines alike, of which one is stopped.
TWINS = STARTS.replace(
    "    await engine.start()\n",
    "    twin = CommandEngine('b2', options, log_buffer=LogBuffer())\n"
    "    await engine.start()\n"
    "    await twin.start()\n"
    "    await twin.stop()\n",
).replace(" > ", " >> ")


async def test_each_of_two_that_are_alike_has_its_own(tmp_path: Path) -> None:
    pid, note = tmp_path / "pid", tmp_path / "note"
    ours = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", TWINS, str(pid), str(note), *GATED[:-1]), "{port}"
    )
    await until(pid.exists, "one is left")
    assert note.read_text() == "you m\n"

    ours.kill()
    await ours.wait()

    await until(lambda: note.read_text() == "you m\n" * 2, "the other was stopped too")
