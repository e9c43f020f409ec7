"""Lines of a key file: a key, what it may, what it is called, how often it may ask."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.api.key_file import Key, parse_keys

LONG = b"sk-0123456789abcdef"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (b"sk-a", Key(b"sk-a", "admin", "line 1")),
        (LONG, Key(LONG, "admin", "sk-0")),
        (b"sk-a use", Key(b"sk-a", "use", "line 1")),
        (b"  sk-a\tadmin  anna  ", Key(b"sk-a", "admin", "anna")),
        (b"sk-a use anna limit=60", Key(b"sk-a", "use", "anna", 60)),
        (b"sk-a limit=1", Key(b"sk-a", "admin", "line 1", 1)),
        (b"\xef\xbb\xbfsk-a\r\n", Key(b"sk-a", "admin", "line 1")),
        ("sk-a use anna\r\n".encode("utf-16"), Key(b"sk-a", "use", "anna")),
        (b"\xe9\xff", Key(b"\xe9\xff", "admin", "line 1")),
    ],
)
def test_a_line(text: bytes, key: Key) -> None:
    assert parse_keys(text) == ((key,), ())


@pytest.mark.parametrize(
    "line",
    [
        b"secret root",
        b"secret anna use",
        b"secret USE",
        b"secret use anna second",
        b"secret limit=0",
        b"secret limit=-1",
        b"secret limit=1.5",
        b"secret limit=",
        b"secret limit=9999999999",
        b"secret limit=1 limit=2",
    ],
)
def test_a_line_that_is_not_understood_lets_nobody_in_and_is_not_told(line: bytes) -> None:
    keys, problems = parse_keys(b"# first\n\n" + line)

    assert keys == ()
    assert len(problems) == 1
    assert problems[0].startswith("line 3: ")
    assert "secret" not in problems[0]


def test_names_are_different_and_keys_too() -> None:
    keys, problems = parse_keys(LONG + b"x\n" + LONG + b"y\n" + LONG + b"x use\n")

    assert [key.name for key in keys] == ["sk-0", "sk-0 (line 2)"]
    assert [key.scope for key in keys] == ["admin", "admin"]
    assert problems == ("line 3: this key was there before",)


@given(st.binary())
def test_any_bytes_can_be_read(data: bytes) -> None:
    for key in parse_keys(data)[0]:
        assert key.secret
        assert key.scope in ("use", "admin")
