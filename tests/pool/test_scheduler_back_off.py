"""The scheduler as transcripts: what fails is not started as often as clients ask."""

from dataclasses import replace

import pytest

from proxy.engine.files import Files
from proxy.pool.effects import Changed, Effect, Fail, Grant, NotYet, Start
from proxy.pool.events import (
    Acquire,
    Exited,
    NotServing,
    Released,
    Replace,
    Started,
    StartFailed,
    Unload,
)
from proxy.pool.state import PROVEN_S
from tests.pool.play import A_LARGE, A, B, Play

OLD: Files = (("a.gguf", 1, 1, 1),)
NEW: Files = (("a.gguf", 1, 2, 1),)


def not_yet(effects: list[Effect]) -> tuple[str, int, float]:
    (effect,) = effects
    assert isinstance(effect, NotYet)
    return effect.failure.reason, effect.failure.count, effect.retry_after_s


def failed(play: Play, times: int = 1) -> None:
    """`A` fails to load, each time as soon as it may be tried."""
    for _ in range(times):
        (start,) = play(Acquire(-1, A, files=OLD))
        assert isinstance(start, Start)
        play(StartFailed(start.backend, start.generation, "bad file", files=OLD))
        play.now_s += play.scheduler.failures.wait_s(A, play.now_s)


def test_who_waited_is_told_and_who_comes_next_is_refused_until_it_is_time() -> None:
    play = Play()
    play(Acquire(1, A), Acquire(2, A))

    assert play(StartFailed("b1", 1, "bad file", files=OLD))[1:] == [
        Fail(1, "bad file", 1.0),
        Fail(2, "bad file", 1.0),
    ]
    play.now_s = 0.75
    assert not_yet(play(Acquire(3, A))) == ("bad file", 1, 0.25)
    assert play.states() == {"b1": "gone"}, "no start, so no room is made"
    play.now_s = 1.0
    assert play(Acquire(4, A)) == [Start("b1", 2)]
    assert play(Acquire(5, A)) == [], "joined"


def test_many_clients_that_ask_all_the_time_have_few_starts() -> None:
    """Three, a hundred times a second, for ten seconds."""
    play, starts = Play(), 0
    for request in range(3000):
        play.now_s = request / 300
        for effect in play(Acquire(request, A)):
            if isinstance(effect, Start):
                starts += 1
                play(StartFailed(effect.backend, effect.generation, "bad file"))

    assert starts == 4  # at 0, 1, 3 and 7 s


def test_a_new_file_is_tried_at_once() -> None:
    play = Play()
    failed(play, 5)
    play(Acquire(1, A, files=OLD), StartFailed("b1", 6, "bad file", files=OLD))

    assert not_yet(play(Acquire(2, A, files=OLD)))[1] == 6
    assert play(Acquire(3, A, files=NEW)) == [Start("b1", 7)]
    play(StartFailed("b1", 7, "worse", files=NEW))
    assert not_yet(play(Acquire(4, A, files=NEW))) == ("worse", 1, 1.0)


def test_other_options_and_other_models_are_tried_at_once() -> None:
    play = Play()
    play(Acquire(1, A), StartFailed("b1", 1, "bad file"))

    assert play(Acquire(2, replace(A, args=("-fa",)))) == [Start("b2", 1)]
    assert play(Acquire(3, B)) == [Start("b3", 1)]


def test_who_insists_has_it_tried_and_others_may_join() -> None:
    play = Play()
    play(Acquire(1, A), StartFailed("b1", 1, "bad file"))

    assert play(Acquire(2, A, insists=True)) == [Start("b1", 2)]
    assert play(Acquire(3, A)) == []
    assert play(StartFailed("b1", 2, "bad file"))[1:] == [
        Fail(2, "bad file", 2.0),
        Fail(3, "bad file", 2.0),
    ]


def test_an_edit_is_tried_at_once_also_where_it_has_failed() -> None:
    play = Play()
    play.ready("b1", B)
    play(Acquire(1, A), StartFailed("b2", 1, "bad file"))

    assert play(Replace("b1", A)) == [Start("b2", 2)]


def test_what_another_one_serves_is_not_refused() -> None:
    play = Play()
    play(Acquire(1, A), StartFailed("b1", 1, "bad file"), Acquire(2, A_LARGE), Started("b2", 1))

    assert play(Acquire(3, A)) == [Grant(3, "b2", 1)]


def test_one_that_was_killed_while_it_loaded_counts_with_its_retry() -> None:
    play = Play()
    play(Acquire(1, A))

    assert play(StartFailed("b1", 1, "killed", killed=True))[1:] == [Start("b1", 2)]
    play(Acquire(2, A))
    *_, first, second = play(StartFailed("b1", 2, "killed", killed=True))
    assert first == Fail(1, "killed", 1.0)
    assert not_yet([second]) == ("killed", 1, 1.0), "who has not been tried again gets no start"


def test_one_that_was_unloaded_while_it_loaded_has_not_failed() -> None:
    play = Play()
    play(Acquire(1, A), Released(1), Unload("b1"), StartFailed("b1", 1, "killed", killed=True))

    assert play(Acquire(2, A)) == [Start("b2", 1)]


class TestThatStartsAndDies:
    """A worker that is well until it is asked something."""

    def dies(self, play: Play, generation: int) -> list[Effect]:
        play(Started("b1", generation), Released(generation))
        return play(Exited("b1", generation, "signal 11"))

    def test_once_it_is_started_again_at_once_and_then_waits(self) -> None:
        play = Play()
        play(Acquire(1, A))
        self.dies(play, 1)

        assert play(Acquire(2, A)) == [Start("b1", 2)]
        self.dies(play, 2)
        assert not_yet(play(Acquire(3, A))) == ("signal 11", 1, 1.0)
        play.now_s = 1.0
        assert play(Acquire(3, A)) == [Start("b1", 3)]
        self.dies(play, 3)
        assert not_yet(play(Acquire(4, A))) == ("signal 11", 2, 2.0)

    def test_one_that_only_loads_again_is_not_well(self) -> None:
        play = Play()
        failed(play, 3)
        play(Acquire(1, A), Started("b1", 4), Released(1))

        failure = play.scheduler.failures.of(A)
        assert failure
        assert failure.count == 3

    @pytest.mark.parametrize("lived_s", [0.0, PROVEN_S])
    def test_one_that_answered_or_lived_long_is_well(self, lived_s: float) -> None:
        play = Play()
        play(Acquire(1, A), Acquire(2, A), Started("b1", 1), Released(1, answered=not lived_s))
        play.now_s += lived_s
        play(Exited("b1", 1, "signal 9"))

        assert play.scheduler.failures.of(A) is None
        assert play.scheduler.backends["b1"].last_error == "signal 9"
        assert play(Acquire(3, A)) == [Start("b1", 2)]

    def test_an_answer_wipes_the_slate(self) -> None:
        play = Play()
        failed(play, 7)
        play(Acquire(1, A), Started("b1", 8), Released(1, answered=True))

        assert play.scheduler.failures.of(A) is None

    def test_one_that_takes_no_connections_counts_as_dead_once(self) -> None:
        """Also where it then ends by itself. It is listed, so that people see why others wait."""
        play = Play()
        play(Acquire(1, A), Started("b1", 1), NotServing("b1", 1, "refused"))
        play(NotServing("b1", 1, "refused"), Exited("b1", 1, "exit status 0"))

        failure = play.scheduler.failures.of(A)
        assert failure
        assert failure.count == 0
        play(Released(1), Acquire(2, A), Started("b1", 2), NotServing("b1", 2, "refused"))
        play(Released(2), Exited("b1", 2, "stopped"))
        assert play.states() == {"b1": "gone"}
        assert play.scheduler.backends["b1"].last_error == "refused"
        assert not_yet(play(Acquire(3, A))) == ("refused", 1, 1.0)

    def test_it_is_not_listed_beside_a_later_start_that_is_well(self) -> None:
        """An edit starts another one while this one still answers."""
        play = Play()
        play.ready("b1", B)
        play(Acquire(1, A), Started("b2", 1), NotServing("b2", 1, "refused"), Replace("b1", A))
        play(Released(1), Exited("b2", 1, "stopped"))
        assert play.states() == {"b1": "ready", "b2": "gone", "b3": "starting"}

        play(Started("b3", 1), Exited("b1", 1, "stopped"))
        assert play.states() == {"b3": "ready"}


def test_unloading_it_strikes_it_off_and_closes_the_circuit() -> None:
    play = Play()
    failed(play, 5)
    play(Acquire(1, A), StartFailed("b1", 6, "bad file"))

    assert play(Unload("b1")) == []
    assert play.states() == {}
    assert play(Acquire(2, A)) == [Start("b2", 1)]


def test_the_queued_are_refused_too_once_they_are_decided_anew() -> None:
    """What they queued for failed again as it went."""
    play = Play()
    play(Acquire(1, A), Started("b1", 1), Released(1), Exited("b1", 1, "signal 11"))
    play(Acquire(2, A), Started("b1", 2), Unload("b1"), Acquire(3, A))

    effects = play(Exited("b1", 2, "signal 11"))
    assert isinstance(effects[0], Changed)
    assert not_yet(effects[1:]) == ("signal 11", 1, 1.0)
