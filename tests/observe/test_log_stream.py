"""Where the log goes: real pipes, and a disk that is full."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.observe.log import setup
from proxy.observe.log_stream import KEPT_BYTES, LogStream
from tests.support.guard import HANG_S, until


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            pass


def test_lines_go_out_in_order(pipe: tuple[int, int]) -> None:
    stream = LogStream(pipe[1])

    for number in range(100):
        stream.write(f"{number} \N{SNOWMAN} \udcff\n")
    stream.drain(HANG_S)

    said = os.read(pipe[0], 1 << 20).decode().splitlines()
    assert said == [f"{number} \N{SNOWMAN} \\udcff" for number in range(100)]


def test_what_a_pipe_takes_is_there_at_once(pipe: tuple[int, int]) -> None:
    """No thread has to run for it, which costs more than the writing."""
    os.set_blocking(pipe[0], False)
    stream = LogStream(pipe[1])

    for line in ("one\n", "two\n"):
        stream.write(line)
        assert os.read(pipe[0], 1 << 10) == line.encode()


def test_order_is_kept_where_a_pipe_takes_a_part(pipe: tuple[int, int]) -> None:
    stream = LogStream(pipe[1])
    lines = [f"{number:x>9999}\n".encode() for number in range(40)]

    for line in lines:
        stream.write(line.decode())
    said = b""
    while len(said) < sum(map(len, lines)):
        said += os.read(pipe[0], 1 << 20)

    assert said == b"".join(lines)


def test_a_reader_that_has_left_holds_up_nothing(pipe: tuple[int, int]) -> None:
    """As with `moe-proxy serve 2>&1 | head -1`."""
    stream = LogStream(pipe[1])
    os.close(pipe[0])

    for _ in range(10):
        stream.write("a line\n")
    stream.drain(HANG_S)


async def test_a_reader_that_has_stopped_reading_is_told_what_it_missed(
    pipe: tuple[int, int],
) -> None:
    stream = LogStream(pipe[1])
    setup("json", stream=stream)
    line = "x" * 1023 + "\n"
    lines = 2 * KEPT_BYTES // len(line)

    for _ in range(lines):
        stream.write(line)  # waits for nobody
    os.set_blocking(pipe[0], False)
    said = b""

    def read() -> bool:
        nonlocal said
        try:
            said += os.read(pipe[0], 1 << 20)
        except BlockingIOError:
            pass
        return b"log_lines_lost" in said

    await until(read, "the lost lines are told of")
    told = next(line for line in said.splitlines() if b"log_lines_lost" in line)
    kept = said.count(b"x" * 1023)
    assert 0 < kept < lines
    assert f'"lines":{lines - kept}'.encode() in told
    assert b"nobody reads it fast enough" in told


def test_a_full_disk_holds_up_nothing() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        stream = LogStream(full)
        stream.write("a line\n")
        stream.drain(HANG_S)
    finally:
        os.close(full)


def test_a_descriptor_that_does_not_wait_is_waited_for(pipe: tuple[int, int]) -> None:
    """Another program may have set the terminal so that we share."""
    os.set_blocking(pipe[1], False)
    stream = LogStream(pipe[1])
    stream.write("x" * 200_000)

    said = b""
    while len(said) < 200_000:
        said += os.read(pipe[0], 1 << 16)

    assert said == b"x" * 200_000


def test_a_file_is_no_terminal(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        assert not LogStream(file.fileno()).isatty()
