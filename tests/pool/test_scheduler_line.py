"""The scheduler where a backend's places are all taken, as transcripts."""

from dataclasses import replace

import msgspec

from proxy.pool.effects import Effect, Grant, Refuse, Start, Stop
from proxy.pool.events import (
    Abort,
    Acquire,
    Drain,
    Event,
    Exited,
    MatchPolicy,
    NotServing,
    Released,
    Replace,
    Started,
    Unload,
    Yielded,
)
from proxy.pool.work import Work
from tests.pool.play import A, Play

ONE = replace(A, parallel=1)
OTHER = replace(A, parallel=1, args=("--other",))
FEW = MatchPolicy(max_queue=2)


def asks(request: int, client: str = "a", matching: MatchPolicy | None = None) -> Acquire:
    work = Work(client, request)
    return Acquire(request, ONE, matching=matching or MatchPolicy(), work=work)


def busy(*more: Event) -> Play:
    """A backend whose only place request 1 has, and these."""
    play = Play()
    play.ready("b1", ONE)
    play(asks(1), *more)
    return play


def granted(effects: list[Effect]) -> list[int]:
    return [effect.request for effect in effects if isinstance(effect, Grant)]


def test_who_finds_no_place_is_granted_one_when_it_is_its_turn() -> None:
    play = busy()

    assert play(asks(2), asks(3)) == []
    assert play(Released(1)) == [Grant(2, "b1", 1)]
    assert play(Released(2)) == [Grant(3, "b1", 1)]


def test_what_needs_no_slot_does_not_wait() -> None:
    play = busy(asks(2))

    assert play(Acquire(3, ONE)) == [Grant(3, "b1", 1)]
    assert play(Released(3)) == []
    assert granted(play(Released(1))) == [2]


def test_a_turn_is_over_when_its_slot_is_free_though_its_client_is_slow() -> None:
    play = busy(asks(2), asks(3))

    assert play(Yielded(1)) == [Grant(2, "b1", 1)]
    assert play(Released(1)) == []
    assert granted(play(Released(2))) == [3]


def test_another_client_is_before_the_rest_of_the_first_one() -> None:
    play = busy(*(asks(number) for number in range(2, 9)))
    play(asks(9, "b"))
    play.now_s = 1.0

    assert granted(play(Released(1))) == [9]


def test_who_leaves_the_line_is_not_granted() -> None:
    play = busy(asks(2), asks(3))

    assert play(Released(2)) == []
    assert granted(play(Released(1))) == [3]
    assert play.scheduler.backends["b1"].waiting_for_it == 0


def test_those_who_joined_its_start_line_up_when_it_serves() -> None:
    play = Play()
    assert play(asks(1), asks(2), asks(3, "b")) == [Start("b1", 1)]

    assert granted(play(Started("b1", 1))) == [1]
    play.now_s = 1.0
    assert granted(play(Released(1))) == [3]
    assert granted(play(Released(3))) == [2]


def test_refused_when_as_many_wait_as_may_for_one_model() -> None:
    play = busy(asks(2, matching=FEW), asks(3, matching=FEW))

    assert play(asks(4, matching=FEW)) == [Refuse(4, "full")]
    assert play(asks(5)) == []


def test_who_is_refused_is_told_how_long_it_would_have_waited() -> None:
    play = busy(asks(2, matching=FEW), asks(3, matching=FEW))
    play.now_s = 8.0
    play(Released(1, answered=True), asks(4, matching=FEW))

    (refusal,) = play(asks(5, matching=FEW))

    assert refusal == Refuse(5, "full", 24.0)  # one that has begun just now, and two that wait


def test_the_line_is_bounded_as_a_whole() -> None:
    play = Play(max_queue=2)
    play.ready("b1", ONE)

    assert play(asks(1), asks(2), asks(3), asks(4))[-1] == Refuse(4, "full")


def test_where_the_worker_dies_the_line_waits_for_the_next_one() -> None:
    play = busy(asks(2), asks(3))

    assert play(Exited("b1", 1, "died"))[-1] == Start("b1", 2)
    assert play(Released(1)) == []
    assert granted(play(Started("b1", 2))) == [2]
    assert granted(play(Released(2))) == [3]


def test_where_nobody_listens_any_more_the_line_waits_for_the_next_one() -> None:
    """Nobody is sent there, though it has those who are there finish."""
    play = busy(asks(2))

    assert Stop("b1", 1) not in play(NotServing("b1", 1, "refused"))
    assert granted(play(Released(1))) == []
    assert play(Exited("b1", 1, ""))[-1] == Start("b1", 2)
    assert granted(play(Started("b1", 2))) == [2]


def test_the_line_moves_to_a_successor_and_who_is_served_stays() -> None:
    play = busy(asks(2), asks(3))
    play.scheduler.waiting[2].acquire = msgspec.structs.replace(asks(2), options=OTHER)
    assert play(Replace("b1", OTHER)) == [Start("b2", 1)]

    assert granted(play(Started("b2", 1))) == [2]
    assert granted(play(Released(1))) == [3]


def test_an_unload_serves_those_who_are_in_line_first() -> None:
    play = busy(asks(2))

    assert Stop("b1", 1) not in play(Unload("b1"))
    assert granted(play(Released(1))) == [2]
    assert Stop("b1", 1) in play(Released(2))


def test_a_drain_serves_those_who_are_in_line_too() -> None:
    play = busy(asks(2))

    play(Drain())

    assert play(asks(3)) == [Refuse(3, "draining")]
    assert granted(play(Released(1))) == [2]
    assert Stop("b1", 1) in play(Released(2))


def test_an_abort_refuses_them() -> None:
    play = busy(asks(2), asks(3))

    effects = play(Abort())

    assert [e for e in effects if isinstance(e, Refuse)] == [
        Refuse(2, "draining"),
        Refuse(3, "draining"),
    ]
    assert granted(play(Released(1))) == []


def test_one_that_died_hands_on_no_place_while_its_successor_loads() -> None:
    play = busy(asks(2), asks(3), Replace("b1", replace(ONE, ctx=2 * ONE.ctx)))
    play(Exited("b1", 1, "SIGKILL", killed=True))

    assert granted(play(Released(1))) == []
    assert granted(play(Started("b2", 1))) == [2]
    assert granted(play(Released(2))) == [3]


def test_one_that_died_twice_hands_on_no_place_while_it_is_not_started() -> None:
    play = busy(asks(2))
    play(Exited("b1", 1, "SIGKILL", killed=True), Started("b1", 2), asks(3))
    play(Exited("b1", 2, "SIGKILL", killed=True))

    assert granted(play(Released(1), Released(2))) == []
    assert granted(play(Released(3))) == []
