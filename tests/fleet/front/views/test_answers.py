"""What comes of what several nodes say to the same question."""

import pytest

from proxy.fleet.front.views import lists
from proxy.fleet.front.views.answers import (
    NobodyAnswers,
    PassedOn,
    Said,
    sorted_out,
    text_of,
    understood,
)


def good(node: str, body: bytes = b"{}") -> Said:
    return Said(node, 200, {}, body)


def silent(node: str) -> Said:
    return Said(node, why="no answer in time")


def test_those_who_answer_are_read_and_others_are_named() -> None:
    found = sorted_out([good("attic", b'{"a": 1}'), silent("cellar"), Said("desk", 500)])
    assert found.read == {"attic": {"a": 1}}
    assert found.left_out == {"cellar": "no answer in time", "desk": "HTTP 500"}
    assert found.warning == "without cellar (no answer in time), desk (HTTP 500)"


def test_nobody_is_left_out_without_a_word_and_nothing_is_said_for_nothing() -> None:
    assert sorted_out([good("attic"), good("cellar")]).warning is None


@pytest.mark.parametrize("status", [400, 401, 403, 409, 429])
def test_a_refusal_is_the_answer_whoever_else_answers(status: int) -> None:
    refusal = Said("cellar", status, {"Retry-After": "3"}, b"no")
    with pytest.raises(PassedOn) as passed:
        sorted_out([good("attic"), refusal, Said("desk", 401)])
    assert passed.value.said is refusal


def test_who_has_no_such_thing_is_neither_missing_nor_told_of() -> None:
    found = sorted_out([Said("attic", 404), good("cellar")])
    assert (dict(found.left_out), found.warning, list(found.missing)) == ({}, None, ["attic"])


def test_where_none_has_it_one_of_them_says_so() -> None:
    first = Said("attic", 404, {}, b"there is no model")
    with pytest.raises(PassedOn) as passed:
        sorted_out([first, Said("cellar", 404), silent("desk")])
    assert passed.value.said is first


@pytest.mark.parametrize("told", [[], [silent("attic")], [Said("attic", 502)]])
def test_nobody_answers(told: list[Said]) -> None:
    with pytest.raises(NobodyAnswers) as error:
        sorted_out(told)
    assert (error.value.status, error.value.retry_after_s) == (503, 1.0)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"null", b"\xff", b"[" * 100_000])
def test_what_no_node_would_say_is_left_out(body: bytes) -> None:
    found = sorted_out([good("attic"), good("cellar", body)])
    assert (list(found.read), list(found.left_out)) == (["attic"], ["cellar"])


def test_it_is_read_as_it_is_to_be() -> None:
    assert sorted_out([good("attic", b"OK")], text_of).read == {"attic": "OK"}
    assert list(sorted_out([good("a", b"x"), good("b", b"\xff")], text_of).left_out) == ["b"]


@pytest.mark.parametrize(
    "odd",
    [
        b"{}",
        b'{"data": 5}',
        b'{"data": ["x"]}',
        b'{"data": [{"id": "m"}]}',
        b'{"data": [{"id": 5, "created": 1}]}',
        b'{"data": [{"id": "m", "created": "soon"}]}',
        b'{"data": [{"id": "m", "created": [1]}]}',
    ],
)
def test_the_odd_words_of_one_are_in_nobodys_way(odd: bytes) -> None:
    plain = good("attic", b'{"data": [{"id": "m", "created": 1}]}')
    found = sorted_out([plain, good("cellar", odd)], understood(lists.models))
    assert lists.models(found.read)["data"] == [{"id": "m", "created": 1, "nodes": ["attic"]}]
    assert found.warning == "without cellar (what it says cannot be understood)"
