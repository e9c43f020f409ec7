"""Which refusals of nodes another one is asked about, and for how long it is not asked itself."""

import pytest

from proxy.fleet.front.refused import (
    LONGEST_S,
    LeftAlone,
    Refusal,
    in_stream,
    is_refusal,
    most_useful,
    wait_of,
)
from proxy.node.names import ASKED, NOTHING_ASKED, REFUSES_COMMENT, REFUSES_HEADER


def refusal(wait_s: float | None = None, status: int = 503) -> Refusal:
    return Refusal("n1", status, "", (), b"", wait_s)


@pytest.mark.parametrize(
    ("status", "said", "expected", "may_repeat", "is_one"),
    [
        (503, NOTHING_ASKED, False, True, True),
        (503, NOTHING_ASKED, False, False, True),  # nothing would be done twice
        (503, ASKED, True, True, True),
        (503, ASKED, True, False, False),
        (503, None, True, True, False),  # a crash over the request, or an engine's own word
        (429, None, True, True, False),  # the client's limit
        (404, NOTHING_ASKED, True, True, True),
        (404, NOTHING_ASKED, False, True, False),  # no node has it
        (400, NOTHING_ASKED, True, True, True),  # a response that is kept elsewhere
    ],
)
def test_what_is_a_refusal(
    status: int, said: str | None, expected: bool, may_repeat: bool, is_one: bool
) -> None:
    headers = {REFUSES_HEADER: said} if said else {}

    assert is_refusal(status, headers, expected=expected, may_repeat=may_repeat) is is_one


def test_the_most_useful_one_is_that_after_which_to_come_again_soonest() -> None:
    soon, late, never, absent = refusal(2), refusal(9), refusal(), refusal(status=404)

    assert most_useful([late, never, soon], others_failed=True) is soon
    assert most_useful([absent, never], others_failed=False) is never
    assert most_useful([absent], others_failed=False) is absent
    assert most_useful([absent], others_failed=True) is None, "who is silent may have it"
    assert most_useful([], others_failed=False) is None


@pytest.mark.parametrize(
    ("text", "wait_s"), [("5", 5), (" 7 ", 7), ("", None), ("-1", None), ("soon", None)]
)
def test_when_to_come_again(text: str, wait_s: float | None) -> None:
    assert wait_of({"Retry-After": text} if text else {}) == wait_s


@pytest.mark.parametrize(
    ("chunk", "found"),
    [
        (REFUSES_COMMENT + b" 5\n\ndata: {}\n\n", (5.0, b"data: {}\n\n")),
        (b": waiting\n\n" + REFUSES_COMMENT + b" \n\ndata", (None, b"data")),
        (b": waiting\n\n", None),
        (b'data: "' + REFUSES_COMMENT + b' 5"\n\n', None),
    ],
)
def test_a_refusal_in_a_stream(chunk: bytes, found: tuple[float | None, bytes] | None) -> None:
    assert in_stream(chunk) == found


def test_a_node_is_left_alone_for_as_long_as_it_said_and_for_that_model() -> None:
    left = LeftAlone()
    left.refused("n1", "m", 0, 5.0, 100.0, was_free=True)
    left.refused("n2", "m", 0, None, 100.0, was_free=True)
    left.refused("n3", "m", 0, 1e9, 100.0, was_free=True)

    assert left.of("m", 0, 104.9, lambda _: True) == {"n1", "n3"}
    assert left.of("m", 0, 105.0, lambda _: True) == {"n3"}
    assert left.of("m", 0, 100 + LONGEST_S, lambda _: True) == set()
    assert left.of("other", 0, 100.0, lambda _: True) == set()


def test_one_that_has_a_slot_free_again_or_has_answered_is_not() -> None:
    left = LeftAlone()
    left.refused("n1", "m", 0, 5.0, 100.0, was_free=False)
    assert left.of("m", 0, 101.0, lambda _: False) == {"n1"}
    assert left.of("m", 0, 101.0, lambda _: True) == set()

    left.answered("n1", "m", 0)
    assert left.of("m", 0, 101.0, lambda _: False) == set()


def test_who_asks_for_too_much_keeps_nobody_else_away() -> None:
    left = LeftAlone()
    left.refused("n1", "m", 1 << 20, 300.0, 100.0, was_free=False)
    assert left.of("m", 4096, 101.0, lambda _: False) == set()
    assert left.of("m", 1 << 21, 101.0, lambda _: False) == {"n1"}

    left.answered("n1", "m", 4096)
    assert left.of("m", 1 << 20, 101.0, lambda _: False) == {"n1"}
    left.refused("n1", "m", 0, 5.0, 101.0, was_free=False)
    assert left.of("m", 0, 102.0, lambda _: False) == {"n1"}
    left.refused("n1", "m", 1 << 20, 300.0, 102.0, was_free=False)
    assert left.of("m", 0, 107.0, lambda _: False) == set()
