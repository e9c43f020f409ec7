import runpy
import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.catalog import cursor, strings
from proxy.catalog.gguf import GgufError
from proxy.catalog.limits import Limits
from proxy.catalog.strings import skip_whole, skip_whole_plainly

words = st.binary(max_size=40).map(lambda word: struct.pack("<Q", len(word)) + word)
# What is near the end of a number or of a buffer, and what no file has.
lengths = (
    st.sampled_from([0, 1, 8, 2**31 - 1, 2**31, 2**63 - 9, 2**63 - 8, 2**63, 2**64 - 8, 2**64 - 1])
    | st.integers(0, 64)
    | st.integers(0, 2**64 - 1)
)
pieces = words | lengths.map(lambda length: struct.pack("<Q", length)) | st.binary(max_size=20)
contents = st.lists(pieces, max_size=20).map(b"".join)
counts = st.sampled_from([2**62, -1]) | st.integers(0, 30)


def test_what_was_compiled_is_used() -> None:
    assert skip_whole is not skip_whole_plainly


def test_where_nothing_was_compiled_python_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "proxy.catalog._strings", None)

    module = runpy.run_path(strings.__file__)

    assert module["skip_whole"] is module["skip_whole_plainly"]


@pytest.mark.parametrize("skip", [skip_whole, skip_whole_plainly])
def test_what_is_cut_is_not_stepped_over(skip: object) -> None:
    assert callable(skip)
    buffer = b"..." + b"".join(struct.pack("<Q", len(word)) + word for word in (b"a", b"", b"bcd"))

    assert skip(buffer, 3, 2) == (3 + 9 + 8, 0)
    assert skip(buffer, 3, 5) == (len(buffer), 2)
    assert skip(buffer[:-1], 3, 3) == (3 + 9 + 8, 1)
    assert skip(buffer[:-4], 3, 3) == (3 + 9 + 8, 1)
    assert skip(buffer, len(buffer), 1) == (len(buffer), 1)
    for beyond in (-1, len(buffer) + 1):
        with pytest.raises(ValueError, match="not within"):
            skip(buffer, beyond, 1)


@given(contents, st.data(), counts)
def test_both_do_the_same(buffer: bytes, data: st.DataObject, count: int) -> None:
    cut = buffer[: data.draw(st.integers(0, len(buffer)))]
    used = data.draw(st.just(0) | st.integers(0, len(cut)))

    assert skip_whole(cut, used, count) == skip_whole_plainly(cut, used, count)


def skipped(path: Path, count: int, read_bytes: int) -> int | str:
    """Where a file goes on after so many strings, or what is wrong with it."""
    with path.open("rb", buffering=0) as file:
        size = path.stat().st_size
        reading = cursor.Cursor(path, file, size, Limits(1 << 20), read_bytes=read_bytes)
        try:
            reading.skip_strings(count, "words")
        except GgufError as error:
            return str(error)
        return reading.position


@given(contents, st.integers(0, 25), st.integers(8, 64))
def test_errors_do_not_depend_on_who_steps_nor_on_how_a_file_is_read(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, count: int, read_bytes: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "words"
    path.write_bytes(content)

    in_pieces = skipped(path, count, read_bytes)
    at_once = skipped(path, count, 1 << 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cursor, "skip_whole", skip_whole_plainly)
        plainly = skipped(path, count, read_bytes)

    assert in_pieces == at_once == plainly
    if isinstance(in_pieces, int):
        assert in_pieces <= len(content)
