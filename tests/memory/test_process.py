"""What is read of a process."""

import mmap
import os
from pathlib import Path

import pytest

from proxy.memory.process import Spent, read_spent

STAT = "7 (a) b c) S 1 2 3 4 5 6 70 80 9 10 300 200 13 14 20 0 4 0 100 1 2\n"


def test_a_name_may_look_like_anything(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/stat").write_text(STAT)

    assert read_spent(7, tmp_path) == Spent(500 / os.sysconf("SC_CLK_TCK"), 9)


def test_what_is_read_without_mapping_counts_too(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/stat").write_text(STAT)
    (tmp_path / "7/io").write_text(f"rchar: 5\nread_bytes: {3 * mmap.PAGESIZE}\nwrite_bytes: 9\n")

    spent = read_spent(7, tmp_path)

    assert spent is not None
    assert spent.pages == 9 + 3


@pytest.mark.parametrize("text", ["", "7 (a", "7 (a) S 1 2", STAT.replace("300", "many")])
def test_what_makes_no_sense_is_not_known(text: str, tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/stat").write_text(text)

    assert read_spent(7, tmp_path) is None
    assert read_spent(8, tmp_path) is None


def test_what_we_spend_is_seen() -> None:
    before = read_spent(os.getpid())
    assert before is not None

    while (now := read_spent(os.getpid())) is not None and now.cpu_s <= before.cpu_s:
        sum(range(1000))

    assert now is not None


def test_pages_that_are_read_are_seen(tmp_path: Path) -> None:
    file = tmp_path / "model"
    file.write_bytes(bytes(64 * mmap.PAGESIZE))
    with file.open("r+b") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        before = read_spent(os.getpid())
        with mmap.mmap(opened.fileno(), 0) as mapped:
            mapped.madvise(mmap.MADV_RANDOM)
            assert not any(mapped[at * mmap.PAGESIZE] for at in range(64))
    after = read_spent(os.getpid())

    assert before is not None
    assert after is not None
    if after.pages == before.pages:
        pytest.skip("this file system keeps its files in memory")
    assert after.pages > before.pages
