"""Probabilities without those of other tokens."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialect.body import Body
from proxy.dialect.logprobs import ask_for_chosen, chosen_only

TOKEN = {"id": 5, "token": ' "]}[\\', "bytes": [32, 34], "logprob": -0.5}
# A text may hold what looks like a list.
SAID = 'x "top_logprobs":[1,2] y'


def chunk(**more: Any) -> bytes:
    entry = {**TOKEN, "top_logprobs": [TOKEN, TOKEN], **more}
    choice = {"delta": {"content": SAID}, "logprobs": {"content": [entry, entry]}}
    return json.dumps({"choices": [choice]}, separators=(",", ":")).encode()


STREAM = b"data: " + chunk() + b"\n\n: comment\n\ndata: " + chunk() + b"\n\ndata: [DONE]\n\n"
BARE = STREAM.replace(chunk(), chunk(top_logprobs=[]))


@pytest.mark.parametrize(
    ("fields", "top"),
    [
        ({"logprobs": True}, 1),
        ({"logprobs": True, "top_logprobs": None}, 1),
        ({"logprobs": True, "top_logprobs": 0}, 1),
        ({"logprobs": True, "top_logprobs": 3}, None),
        ({"logprobs": False}, None),
        ({}, None),
        ({"logprobs": True, "n_probs": 4}, None),
    ],
)
def test_who_is_meant(fields: dict[str, Any], top: int | None) -> None:
    body = Body(json.dumps(fields).encode())

    assert ask_for_chosen(body) is (None if top is None else chosen_only)
    assert json.loads(body.encode()) == fields | ({"top_logprobs": top} if top else {})


@pytest.mark.parametrize("fields", [{"logprobs": False}, {}])
def test_no_alternatives_are_none_without_probabilities_too(fields: dict[str, Any]) -> None:
    """llama-server refuses the one without the other."""
    body = Body(json.dumps({**fields, "top_logprobs": 0}).encode())

    assert ask_for_chosen(body) is None
    assert json.loads(body.encode()) == fields


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_a_stream_however_it_is_cut(cuts: list[int]) -> None:
    rewrite, out = chosen_only(True), b""
    edges = [0, *sorted(cuts), len(STREAM)]
    for begin, end in pairwise(edges):
        out += rewrite.feed(STREAM[begin:end])

    assert out + rewrite.end() == BARE


def test_a_whole_answer() -> None:
    rewrite = chosen_only(False)

    assert rewrite.feed(chunk()[:9]) + rewrite.feed(chunk()[9:]) == b""
    assert rewrite.end() == chunk(top_logprobs=[])
