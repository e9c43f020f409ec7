"""A backend's places: who has one, who waits, and how long that takes."""

from dataclasses import replace
from pathlib import Path

import pytest

from proxy.engine.types import LoadOptions
from proxy.pool.places import SHORT_S, Places, slots_of
from proxy.pool.work import LONG_TOKENS, Work

ANY = Work("x")
HOSTED = LoadOptions("a", Path("a.gguf"), parallel=3)


def filled(slots: int, waiting: int = 0) -> Places:
    """All places taken at 0 s by the first requests, of client a, as all others."""
    places = Places(slots)
    for request in range(slots):
        assert places.enter(request, Work("a", request), 0.0)
    for request in range(slots, slots + waiting):
        places.wait(request, Work("a", request), 0.0)
    return places


def test_as_many_have_a_place_as_there_are_slots() -> None:
    places = filled(2)

    assert not places.are_free(ANY)
    assert not places.enter(2, Work("a"), 0.0)


def test_who_comes_while_others_wait_waits_too() -> None:
    places = filled(1, waiting=1)
    places.leave(0, 1.0)

    assert not places.enter(2, Work("b"), 1.0)
    assert places.next(1.0) == 1


def test_a_place_that_is_given_back_is_the_next_ones() -> None:
    places = filled(2, waiting=3)
    assert places.next(0.0) is None

    places.leave(0, 1.0)

    assert places.next(1.0) == 2
    assert places.next(1.0) is None
    assert len(places) == 2


def test_who_leaves_while_it_waits_frees_no_place() -> None:
    places = filled(1, waiting=2)

    places.leave(1, 1.0)

    assert places.next(1.0) is None
    assert 1 not in places
    assert 2 in places


def test_one_that_takes_several_slots_counts_as_several() -> None:
    places = Places(4)
    assert places.enter(1, Work("a", slots=3), 0.0)
    assert places.enter(2, Work("a"), 0.0)

    assert not places.are_free(ANY)


def test_one_that_takes_more_slots_than_there_are_is_served_as_soon_as_one_is_free() -> None:
    """Its parts follow each other; waiting until all are free would leave some idle."""
    places = filled(2, waiting=0)
    places.wait(9, Work("b", slots=50), 0.0)

    places.leave(0, 1.0)

    assert places.next(1.0) == 9
    assert not places.are_free(ANY)
    places.leave(1, 2.0)
    assert not places.are_free(ANY)
    places.leave(9, 3.0)
    assert places.are_free(ANY)


def test_where_nobody_knows_how_many_there_are_nobody_waits() -> None:
    places = Places(None)

    assert all(places.enter(request, Work("a"), 0.0) for request in range(100))


@pytest.mark.parametrize(
    ("options", "slots"),
    [
        (HOSTED, 3),
        (replace(HOSTED, engine="command", command=("x", "{port}")), None),
        (replace(HOSTED, engine="command", command=("x", "-np={parallel}")), 3),
        (replace(HOSTED, engine="command", command=("x",), args=("{parallel}",)), 3),
    ],
)
def test_a_command_has_as_many_slots_as_it_is_told(options: LoadOptions, slots: int | None) -> None:
    assert slots_of(options) == slots


def test_of_very_short_ones_as_many_more_are_sent_ahead_and_of_no_others() -> None:
    """A slot would be idle for a good part of the time otherwise."""
    short = Work("a", tokens=1)
    places = Places(2)
    places.enter(0, short, 0.0)
    places.leave(0, SHORT_S / 2, answered=True)
    for request in range(1, 3):
        assert places.enter(request, ANY, 1.0)

    assert not places.are_free(ANY)
    for request in range(3, 5):
        assert places.enter(request, short, 1.0)
    assert not places.are_free(short)


def test_how_long_it_takes_is_not_known_before_something_was_measured() -> None:
    places = filled(1, waiting=2)

    assert [each.expected_s for each in places.standings("b1", 1.0)] == [None, None]
    assert places.expected_s(1.0) is None


def test_how_long_it_takes_is_told_from_how_long_it_took() -> None:
    places = filled(1, waiting=3)
    places.leave(0, 10.0, answered=True)
    places.next(10.0)

    first, second = places.standings("b1", 14.0)

    assert (first.position, second.position) == (1, 2)
    assert first.waited_s == 14.0
    assert first.expected_s is not None
    assert second.expected_s is not None
    assert second.expected_s - first.expected_s == pytest.approx(10.0)
    assert places.expected_s(14.0) == pytest.approx(26.0)


def test_an_answer_that_may_be_a_tenth_as_long_is_expected_to_take_a_tenth() -> None:
    places = Places(1)
    places.enter(0, Work("a", tokens=LONG_TOKENS), 0.0)
    places.leave(0, 10.0, answered=True)
    places.enter(1, Work("a"), 10.0)
    places.wait(2, Work("b", "x", tokens=LONG_TOKENS), 10.0)
    places.wait(3, Work("b", "y", tokens=LONG_TOKENS // 10), 10.0)

    short, long = places.standings("b1", 10.0)

    assert short.expected_s == pytest.approx(10.0)
    assert long.expected_s == pytest.approx(11.0, rel=0.01)


def test_one_whose_client_left_measures_nothing() -> None:
    places = filled(1)
    places.leave(0, SHORT_S / 2)

    assert places.expected_s(1.0) is None
    assert places.enter(1, Work("a"), 1.0)
    assert not places.are_free(ANY)


def test_what_was_used_while_nobody_else_wanted_it_is_no_debt() -> None:
    places = filled(1)
    for request in range(10):
        places.leave(request, 10.0 * (request + 1), answered=True)
        places.enter(request + 1, Work("a"), 10.0 * (request + 1))
    places.leave(10, 110.0, answered=True)
    places.enter(11, Work("b"), 110.0)
    places.wait(12, Work("b"), 110.0)
    places.wait(13, Work("a"), 110.0)
    places.leave(11, 120.0, answered=True)

    assert places.next(120.0) == 13


def test_when_the_line_dissolves_nobody_is_next() -> None:
    places = filled(1, waiting=2)

    places.dissolve()
    places.leave(0, 1.0)

    assert len(places) == 0
    assert places.next(1.0) is None
    assert places.are_free(ANY)
