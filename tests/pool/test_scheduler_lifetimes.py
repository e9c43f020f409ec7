"""How backends leave, are replaced and end: the scheduler as transcripts."""

from dataclasses import replace

from proxy.pool.effects import Fail, Grant, Idle, Refuse, SetTimer, Start, Stop
from proxy.pool.events import (
    Abort,
    Acquire,
    Drain,
    Exited,
    Hangs,
    MatchPolicy,
    NotServing,
    Pin,
    Released,
    Replace,
    Started,
    StartFailed,
    TimerFired,
    Unload,
)
from tests.pool.play import A_LARGE, A_SMALL, OPEN, A, B, Play, changed, goes, stops


class TestNotServing:
    def test_it_is_ended_and_the_next_request_waits_for_another_one(self) -> None:
        play = Play()
        play.ready("b1", A)
        play(Acquire(1, A))

        assert play(NotServing("b1", 1, "refused")) == [
            changed("b1", "ready", "draining", "refused")
        ]
        assert play(Acquire(2, A)) == []
        assert play(Released(1)) == stops("b1", "drained", "draining")
        assert play(Exited("b1", 1, "ended")) == [
            changed("b1", "stopping", "gone", "stopped"),
            Start("b1", 2),
        ]

    def test_who_is_told_twice_does_it_once(self) -> None:
        play = Play()
        play.ready("b1", A)

        assert play(NotServing("b1", 1, "refused")) == goes("b1", "refused")
        assert play(NotServing("b1", 1, "refused")) == []


class TestPin:
    def test_it_stays_however_long_it_is_idle(self) -> None:
        play = Play()
        play.ready("b1", A)

        assert play(Pin("b1", pinned=True)) == [SetTimer("b1", 1, None)]
        assert play(TimerFired("b1", 1)) == []
        play(Acquire(1, A, keep_alive_s=0.0))
        assert play(Released(1)) == [Idle("b1", 1)]
        assert play(Pin("b1", pinned=False)) == [Idle("b1", 1), *stops("b1", "keep_alive")]

    def test_its_time_begins_when_that_is_over(self) -> None:
        play = Play()
        play.ready("b1", A)
        play(Pin("b1", pinned=True))

        idle, timer = play(Pin("b1", pinned=False))

        assert idle == Idle("b1", 1)
        assert isinstance(timer, SetTimer)
        assert timer.at_s is not None

    def test_it_is_unloaded_by_who_wants_it_and_its_successor_is_pinned_too(self) -> None:
        play = Play()
        play.ready("b1", A)
        play(Pin("b1", pinned=True))
        play(Replace("b1", A_LARGE))

        assert play.scheduler.backends["b2"].pinned
        assert play(Unload("b1")) == goes("b1", "unload")[1:]  # it had no timer
        assert play(Pin("b9", pinned=True)) == []

    def test_what_is_pinned_by_policy_stays_from_the_start_on(self) -> None:
        play = Play()
        play(Acquire(1, A, 0.0, MatchPolicy(pinned=True)), Started("b1", 1))

        assert play(Released(1)) == [Idle("b1", 1)]
        play(Replace("b1", A_LARGE))
        assert play.scheduler.backends["b2"].pinned

    def test_one_of_the_names_that_share_it_is_enough(self) -> None:
        play = Play()
        play.ready("b1", A)
        play(Acquire(1, A, matching=MatchPolicy(pinned=True)))

        assert play(Released(1)) == [Idle("b1", 1)]
        play(Acquire(2, A))
        assert play(Released(2)) == [Idle("b1", 1)]

    def test_whoever_spoke_last_counts(self) -> None:
        play = Play()
        play(Acquire(1, A, matching=MatchPolicy(pinned=True)), Started("b1", 1), Released(1))

        play(Pin("b1", pinned=False))
        assert not play.scheduler.backends["b1"].pinned
        assert play(Pin("b1", pinned=True, by_policy=True)) == []  # as it said before
        assert not play.scheduler.backends["b1"].pinned
        play(Pin("b1", pinned=True))
        idle, timer = play(Pin("b1", pinned=False, by_policy=True))
        assert (idle, type(timer)) == (Idle("b1", 1), SetTimer)

    def test_what_is_loaded_of_it_besides_is_pinned_too(self) -> None:
        """A longer context, as here, or one that failed and starts again."""
        play = Play()
        play.ready("b1", A)
        play(Pin("b1", pinned=True))
        play(Acquire(1, A_LARGE), Started("b2", 1))
        play(Exited("b2", 1, "died"), Released(1), Acquire(2, A_LARGE))

        assert [(b.id, b.generation) for b in play.scheduler.backends.values() if b.pinned] == [
            ("b1", 1),
            ("b2", 2),
        ]

    def test_nobody_takes_its_server(self) -> None:
        play = Play()
        mine, theirs = (replace(options, rpc=("h:1",)) for options in (A, B))
        play.ready("b1", mine)
        play(Pin("b1", pinned=True))

        assert play(Acquire(1, theirs)) == [Refuse(1, "pinned", model="a")]
        assert play(Acquire(2, theirs, insists=True)) == [Refuse(2, "pinned", model="a")]
        play(Pin("b1", pinned=False))
        assert Stop("b1", 1) in play(Acquire(3, theirs))

    def test_its_own_longer_context_does(self) -> None:
        play = Play()
        mine, longer = (replace(options, rpc=("h:1",)) for options in (A, A_LARGE))
        play.ready("b1", mine)
        play(Pin("b1", pinned=True))

        assert Stop("b1", 1) in play(Acquire(1, longer))
        assert play.scheduler.backends["b2"].pinned

    def test_an_edit_that_gives_its_server_to_another_waits_and_says_why(self) -> None:
        play = Play()
        mine, theirs = (replace(options, rpc=("h:1",)) for options in (A, B))
        play.ready("b1", mine)
        play.ready("b2", B)
        play(Pin("b1", pinned=True))

        assert play(Replace("b2", theirs)) == []
        assert play.scheduler.backends["b2"].last_error == (
            "a is pinned and uses the same rpc server; unpin or unload it first"
        )
        # The old one will do meanwhile.
        (_, grant) = play(Acquire(1, theirs, matching=OPEN))
        assert grant == Grant(1, "b2", 1)


class TestUnload:
    def test_idle(self) -> None:
        play = Play()
        play.ready("b1", A)

        assert play(Unload("b1")) == goes("b1", "unload")
        assert play(Unload("b1")) == []

    def test_busy_drains(self) -> None:
        play = Play()
        play.ready("b1", A)
        play(Acquire(1, A))

        assert play(Unload("b1")) == [changed("b1", "ready", "draining", "unload")]
        assert play(Released(1)) == stops("b1", "drained", "draining")

    def test_loading_with_requests_serves_them_first(self) -> None:
        play = Play()
        play(Acquire(1, A))

        assert play(Unload("b1")) == [changed("b1", "starting", "draining", "unload")]
        assert play(Started("b1", 1)) == [Grant(1, "b1", 1)]
        assert play(Released(1)) == stops("b1", "drained", "draining")

    def test_loading_for_nobody_is_cut_short(self) -> None:
        play = Play()
        play(Acquire(1, A), Unload("b1"))

        assert play(Released(1)) == stops("b1", "drained", "draining")
        # "Serves now" crossed the order to stop.
        assert play(Started("b1", 1)) == []
        assert play(StartFailed("b1", 1, "ended", killed=True)) == [
            changed("b1", "stopping", "gone", "stopped")
        ]
        assert play.states() == {}

    def test_what_is_not_there(self) -> None:
        assert Play()(Unload("b1")) == []

    def test_a_failed_one_is_struck_off_the_list(self) -> None:
        play = Play()
        play(Acquire(1, A), StartFailed("b1", 1, "bad"))

        assert play(Unload("b1")) == []
        assert play.states() == {}


class TestReplace:
    def test_the_old_one_serves_until_the_new_one_is_ready(self) -> None:
        play = Play()
        play.ready("b1", A)

        assert play(Replace("b1", A_LARGE)) == [Start("b2", 1)]
        assert Grant(1, "b1", 1) in play(Acquire(1, A_LARGE, None, OPEN))
        assert play(Acquire(2, A_LARGE)) == []  # named its context: that is worth the wait
        assert play(Started("b2", 1)) == [
            changed("b2", "starting", "ready", "loaded"),
            Grant(2, "b2", 1),
            changed("b1", "ready", "draining", "replaced"),
        ]
        assert play(Acquire(3, A_LARGE, None, OPEN)) == [Grant(3, "b2", 1)]
        assert play(Released(1)) == stops("b1", "drained", "draining")

    def test_the_new_one_stays_as_long_as_the_old_one_would_have(self) -> None:
        play = Play()
        play(Acquire(1, A, 77.0), Started("b1", 1), Released(1), Replace("b1", A_LARGE))

        assert play(Started("b2", 1))[-1] == SetTimer("b2", 1, 77.0)

    def test_by_a_smaller_one(self) -> None:
        play = Play()
        play.ready("b1", A)
        play(Replace("b1", A_SMALL))

        assert play(Started("b2", 1))[1:-2] == goes("b1", "replaced")

    def test_a_new_one_that_fails_leaves_the_old_one_in_place(self) -> None:
        play = Play()
        play.ready("b1", A)
        play(Replace("b1", A_LARGE), StartFailed("b2", 1, "no room"))

        assert play.scheduler.backends["b1"].last_error == "no room"
        assert Grant(1, "b1", 1) in play(Acquire(1, A_LARGE, None, OPEN))
        play.now_s = 1.0
        assert play(Acquire(2, A_LARGE)) == [Start("b2", 2)]

    def test_changed_again_before_it_was_ready(self) -> None:
        play = Play()
        play.ready("b1", A)
        play(Replace("b1", A_LARGE))
        other = replace(A, parallel=1)

        assert play(Replace("b1", other)) == [
            changed("b2", "starting", "draining", "replaced"),
            *stops("b2", "drained", "draining"),
            Start("b3", 1),
        ]

    def test_changed_back_before_it_was_ready(self) -> None:
        play = Play()
        play.ready("b1", A)
        play(Replace("b1", A_LARGE))

        assert play(Replace("b1", A))[-1] == Stop("b2", 1)
        assert play.scheduler.backends["b1"].successor is None

    def test_by_one_that_is_there_already(self) -> None:
        play = Play()
        play.ready("b1", A)
        play(Acquire(1, A))
        other = replace(A, parallel=1)
        play.ready("b2", other)

        assert play(Replace("b1", other)) == [changed("b1", "ready", "draining", "replaced")]

    def test_by_a_larger_context_for_fewer_conversations(self) -> None:
        """Where how many is left to us, they are no reason to keep the one with the smaller one."""
        larger = replace(A_LARGE, parallel=2)
        for named, states in (
            ({"parallel"}, ["stopping", "ready"]),
            (set(), ["ready", "ready"]),
        ):
            play = Play()
            play.ready("b1", A)
            play.ready("b2", larger, MatchPolicy(unpinned=frozenset(named)))
            assert [*play.states().values()] == states

    def test_by_one_that_is_loading_already(self) -> None:
        play = Play()
        play.ready("b1", A)
        other = replace(A, parallel=1)
        play(Acquire(1, other), Replace("b1", other))

        assert play(Started("b2", 1))[2:] == goes("b1", "replaced")

    def test_what_is_gone_needs_no_successor(self) -> None:
        assert Play()(Replace("b1", A)) == []

    def test_one_that_takes_the_place_of_two_ends_both(self) -> None:
        """They stood beside each other by their splits, and are to be loaded with the same now."""
        play = Play()
        beside = MatchPolicy(coexist=True)
        play.ready("b1", replace(A, split=1), beside)
        play.ready("b2", replace(A, split=2), beside)
        new = replace(A, split=1, args=("--jinja",))

        play(Replace("b1", new), Replace("b2", new), Started("b3", 1))

        assert play.states() == {"b1": "stopping", "b2": "stopping", "b3": "ready"}

    def test_one_that_was_to_take_the_place_of_two_tells_both_why_it_could_not(self) -> None:
        play = Play()
        beside = MatchPolicy(coexist=True)
        play.ready("b1", replace(A, split=1), beside)
        play.ready("b2", replace(A, split=2), beside)
        new = replace(A, split=1, args=("--jinja",))

        play(Replace("b1", new), Replace("b2", new), StartFailed("b3", 1, "no room"))

        assert play.states() == {"b1": "ready", "b2": "ready", "b3": "gone"}
        errors = [backend.last_error for backend in play.scheduler.backends.values()]
        assert errors == ["no room"] * 3

    def test_a_restart_is_not_what_is_replaced(self) -> None:
        """Somebody asked for the old one again after it had crashed."""
        play = Play()
        play.ready("b1", A)
        play(Replace("b1", replace(A, parallel=1)), Exited("b1", 1, "signal 9"))
        play(Acquire(1, A), Started("b1", 2), Released(1))

        play(Started("b2", 1))

        assert play.states() == {"b1": "ready", "b2": "ready"}

    def test_what_is_gone_keeps_its_own_error(self) -> None:
        play = Play()
        play.ready("b1", A)
        play(Replace("b1", A_LARGE), Exited("b1", 1, "signal 9"))

        play(StartFailed("b2", 1, "no room"))

        assert play.scheduler.backends["b1"].last_error == "signal 9"

    def test_a_larger_context_takes_the_place_of_a_smaller_one(self) -> None:
        play = Play()
        play.ready("b1", A)
        play.ready("b2", B)
        play(Acquire(1, A_LARGE))

        assert play(Started("b3", 1))[2:] == goes("b1", "replaced")

    def test_another_split_takes_its_place_or_stands_beside_it(self) -> None:
        for matching, left in ((MatchPolicy(), {"b2"}), (MatchPolicy(coexist=True), {"b1", "b2"})):
            play = Play()
            play.ready("b1", replace(A, split=1))
            play(Acquire(1, replace(A, split=2), None, matching), Started("b2", 1))
            ready = {name for name, state in play.states().items() if state == "ready"}

            assert ready == left


class TestHangs:
    def test_it_is_stopped_though_it_is_in_use_and_its_reason_stays(self) -> None:
        """Who has it sees it end, and is asked again; who wants it now waits for its place."""
        play = Play()
        play.ready("b1", A)
        play(Acquire(1, A))

        assert play(Hangs("b1", 1, "it hangs")) == stops("b1", "it hangs")
        assert play(Acquire(2, A)) == []
        gone = play(Exited("b1", 1, "signal 9"))
        assert gone[0] == changed("b1", "stopping", "gone", "it hangs")
        assert gone[1:] == [Start("b1", 2)]
        assert play.scheduler.backends["b1"].last_error is None
        assert play(Released(1)) == []
        assert play(Started("b1", 2))[-1] == Grant(2, "b1", 2)

    def test_who_waits_for_its_load_is_tried_once_more(self) -> None:
        play = Play()
        play(Acquire(1, A), Hangs("b1", 1, "it hangs"))

        assert play(StartFailed("b1", 1, "signal 9"))[-1] == Start("b1", 2)
        assert play(Hangs("b1", 2, "it hangs again"))[0] == Fail(1, "it hangs again")
        play(StartFailed("b1", 2, "signal 9"))
        assert play.scheduler.backends["b1"].last_error == "it hangs again"

    def test_one_that_drains_is_stopped_and_one_that_stops_goes_on_with_it(self) -> None:
        play = Play()
        play.ready("b1", A)
        play(Acquire(1, A), Unload("b1"))

        assert play(Hangs("b1", 1, "it hangs")) == stops("b1", "it hangs", "draining")
        assert play(Hangs("b1", 1, "it hangs")) == []
        play.ready("b2", B)
        play(Unload("b2"))
        assert play(Hangs("b2", 1, "it hangs")) == []
        assert play(Exited("b2", 1, ""))[-1] == changed("b2", "stopping", "gone", "stopped")


class TestEnd:
    def test_drain_finishes_those_who_are_here(self) -> None:
        """Running, waiting and queued requests are all served before the last process stops."""
        play = Play()
        play.ready("b1", A)
        play.ready("b2", B)
        play(Acquire(1, A), Unload("b1"), Acquire(2, A), Acquire(3, A_LARGE))

        assert play(Drain()) == [
            *goes("b2", "drain"),
            changed("b3", "starting", "draining", "drain"),
        ]
        assert play(Started("b3", 1), Released(3))[-1] == Stop("b3", 1)
        play(Exited("b3", 1, ""))
        assert play(Released(1), Exited("b1", 1, ""))[-1] == Start("b4", 1)
        assert play(Started("b4", 1))[-1] == Grant(2, "b4", 1)
        assert play(Released(2)) == [Idle("b4", 1), *stops("b4", "drain")]

    def test_abort_stops_everything(self) -> None:
        play = Play()
        play.ready("b1", A)
        play(Acquire(1, A), Acquire(2, B), Drain())

        assert play(Abort()) == [
            Refuse(2, "draining"),
            *stops("b1", "abort", "draining"),
            *stops("b2", "abort", "draining"),
        ]
        assert play(Released(1), Released(2)) == []
        assert play(Exited("b1", 1, ""), StartFailed("b2", 1, ""))
        assert play.states() == {}
