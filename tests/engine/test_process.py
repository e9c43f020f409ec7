"""Child processes: real ones, small programs written here."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from proxy.engine.line_reader import LINE_BYTES
from proxy.engine.process import ChildProcess
from proxy.errors import LoadFailed
from tests.support.guard import HANG_S
from tests.support.serving import pid_of

Run = Callable[..., Awaitable[ChildProcess]]

UNTIL_EOF = "import sys; print('up', flush=True); sys.stdin.read(); print('eof')"
DEAF = "import sys, time; print('up', flush=True); time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('up', flush=True); time.sleep(600)"
)


def python(code: str, **options: Any) -> ChildProcess:
    return ChildProcess([sys.executable, "-c", code], {}, "b1", **options)


@pytest.fixture
async def run() -> AsyncIterator[Run]:
    """Starts a program and returns it after its first line; ends it after the test."""
    children: list[ChildProcess] = []

    async def start(code: str, **options: Any) -> ChildProcess:
        said = asyncio.Event()
        child = python(code, on_line=lambda line: said.set(), **options)
        children.append(child)
        await child.start()
        await said.wait()
        return child

    yield start
    for child in children:
        await child.stop(grace_s=0.0)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def state(pid: int) -> str:
    """One letter, as ps shows it; a zombie's too where it is gone by now."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


async def test_its_words_and_its_status() -> None:
    """Both streams are read, in order; wait() returns after the last line."""
    lines: list[str] = []
    code = (
        "import sys; print('one', flush=True);"
        "print('two', file=sys.stderr, flush=True); sys.exit(3)"
    )
    child = python(code, on_line=lines.append)

    await child.start()

    assert await child.wait() == 3
    assert lines == list(child.words.lines) == ["one", "two"]


async def test_a_line_without_an_end_is_cut_into_pieces() -> None:
    """A megabyte without a newline neither stops the reading nor is kept whole."""
    lines: list[str] = []
    code = r"import sys; sys.stdout.write('x' * (1 << 20) + '\nafter\nlast without end')"
    child = python(code, on_line=lines.append)

    await child.start()
    await child.wait()

    assert lines[-2:] == ["after", "last without end"]
    assert "".join(lines[:-2]) == "x" * (1 << 20)
    assert max(map(len, lines)) <= 3 * LINE_BYTES


async def test_bytes_that_are_no_text() -> None:
    child = python(r"import sys; sys.stdout.buffer.write(b'\xff\xfe caf\xc3\xa9\r\n')")

    await child.start()
    await child.wait()

    assert list(child.words.lines) == ["\ufffd\ufffd café"]


async def test_the_environment_is_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OURS", "1")
    code = "import os; print(os.environ.get('OURS'), os.environ['GIVEN'])"
    child = ChildProcess([sys.executable, "-c", code], {"GIVEN": "2"}, "b1")

    await child.start()
    await child.wait()

    assert list(child.words.lines) == ["None 2"]
    assert "GIVEN" not in os.environ


async def test_a_program_that_is_not_there() -> None:
    child = ChildProcess(["/does/not/exist"], {}, "b1")

    with pytest.raises(LoadFailed, match="cannot run /does/not/exist: No such file"):
        await child.start()

    await child.stop()
    assert child.pid is None


async def test_stop_by_eof(run: Run) -> None:
    """The first rung of the ladder: no signal is needed."""
    child = await run(UNTIL_EOF)

    await child.stop(grace_s=60.0)

    assert await child.wait() == 0
    assert list(child.words.lines) == ["up", "eof"]


async def test_stop_by_sigterm_at_once_where_eof_means_nothing(run: Run) -> None:
    child = await run(DEAF, ends_at_eof=False)

    await child.stop(grace_s=60.0)

    assert await child.wait() == -signal.SIGTERM


async def test_stop_by_sigterm_after_eof_was_not_heard(run: Run) -> None:
    child = await run(DEAF)

    await child.stop(grace_s=0.1)

    assert await child.wait() == -signal.SIGTERM


async def test_stop_by_sigkill(run: Run) -> None:
    child = await run(STUBBORN, ends_at_eof=False)

    await child.stop(grace_s=0.1)

    assert await child.wait() == -signal.SIGKILL


async def test_one_that_outlives_sigkill_is_told_and_waited_for(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the kernel had it: it has its memory still."""
    child = await run(STUBBORN, killed_s=0.05)
    kill = os.killpg
    monkeypatch.setattr(os, "killpg", lambda *_: None)
    with capture_logs() as logged:
        stop = asyncio.ensure_future(child.stop(grace_s=0.0))
        while [line["event"] for line in logged].count("child_outlives_kill") < 2:
            await asyncio.sleep(0.01)
    assert not stop.done()

    kill(child.pid or 0, signal.SIGKILL)

    await stop
    assert await child.wait() == -signal.SIGKILL


async def test_stop_twice_and_cancelled(run: Run) -> None:
    """A stop goes on when whoever asked for it is cancelled, and a second one waits for the same
    end."""
    child = await run(STUBBORN, ends_at_eof=False)
    first = asyncio.ensure_future(child.stop(grace_s=0.2))
    await asyncio.sleep(0)
    first.cancel()

    await asyncio.gather(child.stop(), child.stop())

    assert child.returncode == -signal.SIGKILL
    assert first.cancelled()
    assert not alive(child.pid or 0)


async def test_stop_before_start() -> None:
    """Whoever is to be stopped does not start any more."""
    child = python(DEAF)
    await child.stop()

    with pytest.raises(LoadFailed, match="stopped before it was started"):
        await child.start()


async def test_stop_without_grace_kills_at_once(run: Run) -> None:
    child = await run(UNTIL_EOF)

    await child.stop(grace_s=0.0)

    assert child.returncode == -signal.SIGKILL
    assert list(child.words.lines) == ["up"]


async def test_stop_without_grace_hurries_one_that_is_under_way(run: Run) -> None:
    child = await run(STUBBORN, ends_at_eof=False)
    patient = asyncio.ensure_future(child.stop(grace_s=HANG_S))
    await asyncio.sleep(0)

    await child.stop(grace_s=0.0)

    await patient
    assert child.returncode == -signal.SIGKILL


async def test_stop_while_it_is_spawned() -> None:
    child = python(DEAF, ends_at_eof=False)
    start = asyncio.ensure_future(child.start())
    await asyncio.sleep(0)
    await child.stop()
    await start

    assert await child.wait() == -signal.SIGTERM or child.returncode == -signal.SIGKILL


async def test_what_it_started_ends_with_it(run: Run) -> None:
    """The leader dies of a signal that the rest of its group did not get; nothing of the group
    stays."""
    code = (
        "import subprocess, sys, time;"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        "print(p.pid, flush=True); time.sleep(600)"
    )
    child = await run(code)
    grandchild = int(child.words.lines[0])
    assert alive(grandchild)

    os.kill(pid_of(child), signal.SIGKILL)
    await child.wait()

    # It was sent SIGKILL; an orphan stays a zombie until whoever adopted it takes note.
    while alive(grandchild) and state(grandchild) != "Z":
        await asyncio.sleep(0.01)


async def test_a_stray_that_keeps_the_pipe_holds_up_nobody(run: Run) -> None:
    code = (
        "import subprocess, sys;"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
        " start_new_session=True); print(p.pid, flush=True)"
    )
    child = await run(code)

    assert await child.wait() == 0

    os.kill(int(child.words.lines[0]), signal.SIGKILL)


@pytest.mark.parametrize(
    ("number", "killed", "cause"),
    [
        (signal.SIGKILL, True, ": it was killed from outside; where main memory"),
        (signal.SIGTERM, True, ": it was told to end from outside"),
        (signal.SIGABRT, False, ""),
    ],
)
async def test_load_failed_tells_a_kill_from_a_crash(
    run: Run, number: int, killed: bool, cause: str
) -> None:
    child = await run(DEAF)
    os.kill(pid_of(child), number)
    await child.wait()

    error = child.load_failed("it ended")

    assert error.message.startswith(f"it ended{cause}")
    assert (error.message.splitlines()[1:], error.killed) == (["up"], killed)


async def test_load_failed_does_not_take_our_own_stop_for_a_kill(run: Run) -> None:
    child = await run(DEAF, ends_at_eof=False)
    await child.stop()

    assert not child.load_failed("it ended").killed


async def test_load_failed_quotes_errors_and_the_last_line(run: Run) -> None:
    code = (
        "print('up'); print('0.1 E no room'); print('error: so it goes');"
        "[print('0.2 I', n) for n in range(20)]; print(); print('done')"
    )
    child = await run(code)
    await child.wait()

    message = child.load_failed("x").message
    assert message == "x: so it goes\n0.1 E no room\nerror: so it goes\ndone"


async def test_load_failed_quotes_the_last_lines_where_none_is_an_error(run: Run) -> None:
    child = await run("print('up'); [print(n) for n in range(20)]")
    await child.wait()

    assert child.load_failed("x").message.splitlines() == ["x", *map(str, range(14, 20))]


async def test_signals_that_are_blocked_here_are_not_in_a_child() -> None:
    """`serve` hears them on a thread of its own; a child has to hear SIGTERM itself."""
    blocked = {signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        code = "import signal; print(*signal.pthread_sigmask(signal.SIG_BLOCK, ()), flush=True)"
        children = [python(code) for _ in range(3)]
        await asyncio.gather(*(child.start() for child in children))
        await asyncio.gather(*(child.wait() for child in children))

        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) >= blocked
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    assert [list(child.words.lines) for child in children] == [[""]] * 3


async def test_what_it_says_is_for_the_debug_log_unless_it_warns() -> None:
    said = ["0.00.001 I loading", "0.00.002 W that is odd", "as is", "error: broken"]
    script = "; ".join(f"echo {line!r}" for line in said)
    with capture_logs() as lines:
        child = ChildProcess(["sh", "-c", script], {"PATH": os.environ["PATH"]}, "b1")
        await child.start()
        await child.wait()

    levels = [line["log_level"] for line in lines if line["event"] == "child_says"]
    assert levels == ["debug", "warning", "debug", "warning"]
