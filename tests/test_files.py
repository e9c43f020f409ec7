"""Only regular files are opened, and nobody waits for any other."""

import os
import socket
from pathlib import Path

import pytest

from proxy.files import BadJson, decode_json, is_regular, open_regular, read_small, shown


@pytest.fixture(params=["pipe", "socket", "folder", "device", "loop", "nothing"])
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Something that is no regular file."""
    path = tmp_path / "x.gguf"
    match request.param:
        case "pipe":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(path))
        case "folder":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/zero")
        case "loop":
            path.symlink_to(path)
    return path


def test_what_is_no_file_is_refused_at_once(odd: Path) -> None:
    assert not is_regular(odd)
    with pytest.raises(OSError, match=r"x\.gguf"):
        open_regular(odd)
    with pytest.raises(OSError, match=r"x\.gguf"):
        read_small(odd, 100)


def test_a_small_file_is_read_whole_and_a_large_one_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")

    assert read_small(path, 5) == b"12345"
    with pytest.raises(OSError, match="larger than any"):
        read_small(path, 4)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff", b'"\xff"', b"[1]", b"[" * 20_000, b'{"a":' * 20_000 + b"1"]
)
def test_json_that_is_none_is_one_kind_of_error(data: bytes) -> None:
    with pytest.raises(BadJson, match="its words: "):
        decode_json(data, dict[str, object], "its words")


def test_a_name_of_any_bytes_can_be_shown() -> None:
    assert shown(os.fsdecode(b"b\xffd")) == "b\ufffdd"
