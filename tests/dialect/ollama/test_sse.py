"""Events come out the same however their bytes arrive."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialect.ollama import sse
from proxy.dialect.ollama.sse import SseDecoder, SseError
from tests.fuzz.bounds import little_time

LINE = st.binary(max_size=12).filter(lambda data: b"\n" not in data and b"\r" not in data)
EVENT = st.lists(LINE, min_size=1, max_size=3)
NOISE = st.sampled_from([b"", b": ping\n", b"event: x\n", b"id: 3\n", b"retry: 1\n", b"odd\n"])


@given(
    events=st.lists(st.tuples(NOISE, EVENT)),
    cuts=st.lists(st.integers(0, 400)),
    crlf=st.booleans(),
)
def test_any_chunking_gives_the_same_events(
    events: list[tuple[bytes, list[bytes]]], cuts: list[int], crlf: bool
) -> None:
    stream = b"".join(
        noise + b"".join(b"data: " + line + b"\n" for line in lines) + b"\n"
        for noise, lines in events
    )
    if crlf:
        stream = stream.replace(b"\n", b"\r\n")
    edges = sorted({0, *(cut for cut in cuts if cut < len(stream)), len(stream)})
    decoder = SseDecoder()

    seen = [
        event
        for start, end in itertools.pairwise(edges)
        for event in decoder.feed(stream[start:end])
    ]

    assert seen == [b"\n".join(lines) for _, lines in events]


def test_an_event_counts_once_it_has_ended() -> None:
    decoder = SseDecoder()

    assert decoder.feed(b"data: a\n") == []
    assert decoder.feed(b"\n\n") == [b"a"]
    assert decoder.feed(b"data:b\n\ndata: \n\n") == [b"b", b""]


def test_what_never_ends_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 10)

    with pytest.raises(SseError, match="more than 10 bytes"):
        SseDecoder().feed(b"data: 0123456789")
    decoder = SseDecoder()
    decoder.feed(b"data: 01234\n")
    with pytest.raises(SseError):
        decoder.feed(b"data: 567890\n")


def test_small_pieces_of_a_long_event_take_no_longer_than_its_length() -> None:
    """All that had come was put together again with each piece: minutes for this one."""
    decoder = SseDecoder()
    with little_time():
        decoder.feed(b"data: ")
        for _ in range(1 << 18):
            assert decoder.feed(b"x" * 32) == []
        assert decoder.feed(b"\n\n") == [b"x" * (32 << 18)]


def test_lines_without_anything_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 10)

    with pytest.raises(SseError):
        SseDecoder().feed(b"data:\n" * 12)
