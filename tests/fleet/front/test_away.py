"""Nodes that cannot be asked, and what they had."""

from proxy.fleet.front.away import LEFT_S, SOON_S, Away, comes_again
from proxy.fleet.front.picture import Model, Models

NOTHING = Models()


def having(*names: str) -> Models:
    return Models(Model(name, name) for name in names)


def test_who_is_away_has_had_what_it_was_heard_to_have() -> None:
    away = Away()
    away.went("n2", having("b"), 0.0)
    away.went("n1", having("a", "b"), 0.0)

    away.went("n1", NOTHING, 1.0)  # begun again, and it has told nothing yet

    assert away.having("b") == ["n1", "n2"]
    assert away.has("n1")
    assert not away.has("n3")
    assert away.having("a:latest") == ["n1"]
    assert away.having("c") == []
    away.is_back("n1")
    assert away.having("a") == []


def test_who_went_just_now_may_be_back_soon() -> None:
    away = Away()
    away.went("n1", having("a"), 10.0)

    assert away.may_be_back_soon(["x", "a"], 10.0 + SOON_S - 0.1)
    assert not away.may_be_back_soon(["a"], 10.0 + SOON_S)
    assert not away.may_be_back_soon(["x"], 10.0)
    assert not away.may_be_back_soon([], 10.0)
    assert away.went_just_now("n1", 10.0 + SOON_S - 0.1)
    assert not away.went_just_now("n1", 10.0 + SOON_S)
    assert not away.went_just_now("n2", 10.0)


def test_who_left_is_forgotten_and_who_is_silent_is_not() -> None:
    away = Away()
    away.went("left", having("a"), 0.0)
    away.went("silent", having("a"), 0.0)

    away.forget({"silent"}, LEFT_S - 1)
    assert away.having("a") == ["left", "silent"]
    away.forget({"silent"}, LEFT_S)
    assert away.having("a") == ["silent"]


def test_a_client_is_told_where_its_model_is() -> None:
    told = comes_again("m" * 1000, ["n1", "n2"])
    assert told.status == 503
    assert "is on n1, n2, which take no requests now" in told.message
    assert len(told.message) < 200
