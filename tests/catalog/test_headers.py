"""A header is read once, for as long as its file stays as it was."""

import os
from pathlib import Path

import pytest

from proxy.catalog import headers
from proxy.catalog.gguf import GgufError, Header
from proxy.catalog.gguf_reader import read_header
from proxy.catalog.headers import header_at
from tests.support.models import model


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read."""
    found: list[Path] = []

    def noted(path: Path) -> Header:
        found.append(path)
        return read_header(path)

    monkeypatch.setattr(headers, "read_header", noted)
    return found


def test_the_same_file_is_read_once(tmp_path: Path, reads: list[Path]) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(model(layers=4).read_bytes())

    assert header_at(path) is header_at(path)

    assert reads == [path]


def test_another_file_of_that_name_is_read_anew(tmp_path: Path, reads: list[Path]) -> None:
    """Also one of the same age, that was put into its place."""
    path, other = tmp_path / "a.gguf", tmp_path / "b.gguf"
    path.write_bytes(model(layers=4).read_bytes())
    other.write_bytes(model(layers=12).read_bytes())
    assert header_at(path).layers == 4
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))

    other.replace(path)

    assert header_at(path).layers == 12
    assert reads == [path, path]


def test_what_could_not_be_read_is_tried_again(tmp_path: Path, reads: list[Path]) -> None:
    path = tmp_path / "a.gguf"
    for content in (b"GGUF", b"GGUF" + bytes(9)):
        path.write_bytes(content)
        with pytest.raises(GgufError):
            header_at(path)
    assert len(reads) == 2
    with pytest.raises(FileNotFoundError):
        header_at(tmp_path / "none.gguf")
