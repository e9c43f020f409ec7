"""Texts near those that mean something, for hypothesis."""

from collections.abc import Sequence

from hypothesis import strategies as st

# What becomes of a text at a place: how much of it goes, and what comes.
Edit = tuple[int, int, bytes]
LONGEST = 64 << 10


def mutated(seeds: Sequence[bytes], words: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """One of `seeds` after a few edits: bytes, `words`, repetitions and cuts; or any bytes."""
    pieces = st.sampled_from(words) | st.binary(max_size=8)
    repeated = st.tuples(pieces, st.integers(2, 2000)).map(lambda pair: pair[0] * pair[1])
    edits = st.lists(
        st.tuples(st.integers(0, 1 << 16), st.integers(0, 40), pieces | repeated), max_size=6
    )
    changed = st.tuples(st.sampled_from(seeds), edits).map(lambda pair: _edited(*pair))
    return changed | st.binary(max_size=300)


def _edited(text: bytes, edits: Sequence[Edit]) -> bytes:
    for place, gone, new in edits:
        at = place % (len(text) + 1)
        text = text[:at] + new + text[at + gone :]
    return text[:LONGEST]
