"""Programs that a supervisor keeps going: real processes."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from proxy.fleet.cluster.children import Child, Kept, Program, last_words, serving_url
from tests.support.guard import until
from tests.support.serving import runs

SAYS_AND_WAITS = "import sys, time; print('here', file=sys.stderr, flush=True); time.sleep(600)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SAYS_AND_WAITS
ECHO = "import sys\nfor line in sys.stdin: print('got', line, end='', file=sys.stderr, flush=True)"


def program(code: str) -> Program:
    return Program((sys.executable, "-c", code), os.environ)


@asynccontextmanager
async def child(
    folder: Path, code: str, heard: Callable[[str], None] = lambda line: None
) -> AsyncIterator[Child]:
    made = await asyncio.to_thread(Child, program(code), folder / "log", heard)
    try:
        yield made
    finally:
        await made.end(0)


@asynccontextmanager
async def kept(folder: Path, code: str) -> AsyncIterator[Kept]:
    async def wanted() -> Program:
        return program(code)

    made = Kept("test", wanted, folder / "log")
    running = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.wait((running,))
        await made.end(0)


async def test_what_it_says_is_heard_and_kept(tmp_path: Path) -> None:
    lines: list[str] = []
    async with child(tmp_path, SAYS_AND_WAITS, lines.append):
        await until(lambda: lines, "a line")
        await until(lambda: (tmp_path / "log").read_text() == "here\n", "it is in the file")

    assert lines == ["here"]


async def test_one_that_is_told_to_end_does(tmp_path: Path) -> None:
    async with child(tmp_path, SAYS_AND_WAITS) as made:
        await made.end(600)

        assert made.ended.result() == -signal.SIGTERM


async def test_one_that_does_not_hear_or_is_stopped_is_killed(tmp_path: Path) -> None:
    lines: list[str] = []
    async with child(tmp_path, DEAF, lines.append) as made:
        await until(lambda: lines, "it is deaf by now")
        os.kill(made.pid, signal.SIGSTOP)
        await made.end(0.1)

        assert made.ended.result() == -signal.SIGKILL


async def test_of_what_it_is_told_it_has_the_last_line(tmp_path: Path) -> None:
    lines: list[str] = []
    async with child(tmp_path, ECHO, lines.append) as made:
        made.tell(b"1\n")
        made.tell(b"2\n")
        await until(lambda: lines and lines[-1] == "got 2", "the last line")


async def test_one_that_takes_nothing_keeps_nobody_waiting(tmp_path: Path) -> None:
    async with child(tmp_path, SAYS_AND_WAITS) as made:
        for _ in range(20):
            made.tell(b"x" * (1 << 20))  # more than a pipe holds


async def test_one_that_ends_is_begun_again_and_told_the_same(tmp_path: Path) -> None:
    async with kept(tmp_path, ECHO) as made:
        made.tell(b"members\n")
        await until(lambda: made.child and "got members" in made.child.last_lines, "it is told")
        first = made.child
        assert first is not None
        os.kill(first.pid, signal.SIGKILL)

        await until(lambda: made.child not in (None, first), "another one")
        await until(lambda: made.child and "got members" in made.child.last_lines, "told again")
        assert "signal 9" in made.failure


async def test_why_one_does_not_start_is_known(tmp_path: Path) -> None:
    async with kept(tmp_path, "import sys; sys.exit('moe-proxy: no such file')") as made:
        await until(lambda: made.failure, "it has ended")

        assert made.failure == "ended with status 1: moe-proxy: no such file"


async def test_a_program_that_is_not_there_is_tried_again(tmp_path: Path) -> None:
    async def wanted() -> Program:
        return Program((str(tmp_path / "none"),), os.environ)

    made = Kept("test", wanted, tmp_path / "log")
    running = asyncio.create_task(made.run())
    await until(lambda: made.failure == "cannot be started: no such file or directory", "a reason")
    running.cancel()
    await asyncio.wait((running,))


async def test_none_outlives_who_has_started_it(tmp_path: Path) -> None:
    """However that ends; also one that is stopped."""
    code = (
        "import os, pathlib, sys, time\n"
        "from proxy.fleet.cluster.children import Child, Program\n"
        f"p = Program((sys.executable, '-c', {SAYS_AND_WAITS!r}), os.environ)\n"
        f"child = Child(p, pathlib.Path({str(tmp_path / 'log')!r}), lambda line: None)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    os.kill(pid, signal.SIGSTOP)
    parent.kill()
    await parent.wait()

    await until(lambda: not runs(pid), "it has ended")


def test_where_a_proxy_serves_is_in_its_log() -> None:
    assert serving_url('{"url":"http://1.2.3.4:5","event":"serving"}') == "http://1.2.3.4:5"
    for line in ('{"event":"serving"}', 'text "serving"', '["serving"]', '{"event":"x","url":"y"}'):
        assert serving_url(line) is None


def test_plain_text_says_more_of_an_end_than_the_log() -> None:
    assert last_words(['{"event":"x"}', "moe-proxy: taken:", "  why", '{"event":"y"}']) == (
        "moe-proxy: taken: why"
    )
    assert last_words([]) == ""


def test_a_line_about_a_request_is_no_reason_for_an_end() -> None:
    request = '{"method":"POST","level":"info","event":"request"}'
    error = '{"reason":"no memory","level":"error","event":"crashed"}'

    assert last_words([request, "", '{"half', "{}", '{"event":"x"}']) == ""
    assert last_words([error, request]) == "crashed: no memory"


async def test_why_it_ended_before_is_no_news_of_one_that_was_ended_and_begins_again(
    tmp_path: Path,
) -> None:
    async with kept(tmp_path, "import sys; sys.exit('no such file')") as made:
        await until(lambda: made.failure, "it has ended")

    assert made.failure == ""


async def test_one_that_waits_for_something_is_told_a_second_time(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time; told = []\n"
        "def end(*_):\n  told.append(1)\n  if len(told) == 2: sys.exit(7)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('here', file=sys.stderr, flush=True)\n"
        "while True: time.sleep(600)\n"
    )
    lines: list[str] = []
    async with child(tmp_path, code, lines.append) as made:
        await until(lambda: lines, "it hears signals by now")
        await made.end(600, hurry_s=2.0)

        assert made.ended.result() == 7
