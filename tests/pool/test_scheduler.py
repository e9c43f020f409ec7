"""The scheduler as transcripts: what happens, and what it wants done about it."""

from dataclasses import replace
from math import inf

from proxy.pool.effects import Changed, Fail, Grant, Idle, Refuse, SetTimer, Start, Stop
from proxy.pool.events import (
    Acquire,
    Drain,
    Exited,
    MatchPolicy,
    Released,
    Replace,
    Started,
    StartFailed,
    TimerFired,
    Unload,
)
from proxy.pool.roster import MAX_GONE
from tests.pool.play import A_LARGE, A_SMALL, KEEP_S, LOADED, OPEN, A, B, Play, changed, stops


class TestAcquire:
    def test_refused_while_draining(self) -> None:
        play = Play()
        play(Drain())

        assert play(Acquire(1, A)) == [Refuse(1, "draining")]

    def test_granted_by_what_is_ready(self) -> None:
        """No wait, and the timer that would have unloaded it is off."""
        play = Play()
        play.ready("b1", A)

        assert play(Acquire(1, A)) == [SetTimer("b1", 1, None), Grant(1, "b1", 1)]

    def test_granted_a_larger_context_than_asked_for(self) -> None:
        play = Play()
        play.ready("b1", A)

        assert Grant(1, "b1", 1) in play(Acquire(1, A_SMALL))

    def test_granted_exactly_what_it_asked_for_where_more_is_there(self) -> None:
        """The smaller one became ready last, so both are there."""
        play = Play()
        play(Acquire(1, A), Acquire(2, A_LARGE), Started("b2", 1), Started("b1", 1))

        assert play(Acquire(3, A)) == [Grant(3, "b1", 1)]
        assert play(Acquire(4, A_LARGE)) == [Grant(4, "b2", 1)]

    def test_granted_any_split_if_it_named_none(self) -> None:
        play = Play()
        play.ready("b1", replace(A, split=3))

        assert Grant(1, "b1", 1) in play(Acquire(1, replace(A, split=12), None, OPEN))
        assert play(Acquire(2, replace(A, split=12))) == [Start("b2", 1)]

    def test_refused_when_the_queue_is_full(self) -> None:
        """The bound counts those that wait for a backend, not those that are served."""
        play = Play(max_queue=2)
        play.ready("b1", B)

        assert play(Acquire(1, A)) == [Start("b2", 1)]
        assert play(Acquire(2, A)) == []
        assert play(Acquire(3, A)) == [Refuse(3, "full")]
        assert Grant(4, "b1", 1) in play(Acquire(4, B))
        assert play(Released(2)) == []
        assert play(Acquire(5, A)) == []

    def test_joined(self) -> None:
        """One start per key, however many wait, and a smaller context joins a larger one."""
        play = Play()

        assert play(Acquire(1, A), Acquire(2, A), Acquire(3, A_SMALL)) == [Start("b1", 1)]
        assert play(Started("b1", 1)) == [
            LOADED,
            Grant(1, "b1", 1),
            Grant(2, "b1", 1),
            Grant(3, "b1", 1),
        ]

    def test_queued_until_what_would_have_served_is_gone(self) -> None:
        play = Play()
        play.ready("b1", A)
        play(Acquire(1, A), Unload("b1"))

        assert play(Acquire(2, A)) == []
        assert play(Released(1)) == stops("b1", "drained", "draining")
        assert play(Acquire(3, A)) == []
        assert play(Exited("b1", 1, "")) == [
            changed("b1", "stopping", "gone", "stopped"),
            Start("b2", 1),
        ]
        assert play.scheduler.backends["b2"].waiting == 2

    def test_queued_no_longer_than_until_another_one_serves(self) -> None:
        play = Play()
        play.ready("b1", A)
        play(Acquire(1, A), Unload("b1"), Acquire(2, A), Acquire(3, B), Acquire(4, A_LARGE))

        assert play(Started("b3", 1))[1:] == [Grant(4, "b3", 1), Grant(2, "b3", 1)]

    def test_started_beside_others(self) -> None:
        play = Play()
        play.ready("b1", A)

        assert play(Acquire(1, B)) == [Start("b2", 1)]
        assert play(Acquire(2, A_LARGE)) == [Start("b3", 1)]


class TestReleased:
    def test_while_waiting_the_load_goes_on(self) -> None:
        """A client that leaves ends neither the load nor anybody else's wait."""
        play = Play()
        play(Acquire(1, A), Acquire(2, A))

        assert play(Released(1)) == []
        assert play(Started("b1", 1)) == [LOADED, Grant(2, "b1", 1)]

    def test_the_only_one_while_waiting(self) -> None:
        play = Play()
        play(Acquire(1, A), Released(1))

        assert play(Started("b1", 1)) == [LOADED, Idle("b1", 1), SetTimer("b1", 1, KEEP_S)]

    def test_while_queued(self) -> None:
        play = Play()
        play.ready("b1", A)
        play(Acquire(1, A), Unload("b1"), Acquire(2, A), Released(2), Released(1))

        assert play(Exited("b1", 1, "")) == [changed("b1", "stopping", "gone", "stopped")]
        assert play.states() == {}

    def test_twice_is_once(self) -> None:
        play = Play()
        play.ready("b1", A)
        play(Acquire(1, A), Acquire(2, A), Released(1), Released(1))

        assert play.scheduler.backends["b1"].in_flight == 1


class TestKeepAlive:
    def test_the_timer_starts_when_the_last_request_leaves(self) -> None:
        play = Play()
        play(Acquire(1, A), Acquire(2, A), Started("b1", 1))
        play.now_s = 10.0

        assert play(Released(1)) == []
        assert play(Released(2)) == [Idle("b1", 1), SetTimer("b1", 1, 10.0 + KEEP_S)]
        play.now_s += KEEP_S
        assert play(TimerFired("b1", 1)) == [SetTimer("b1", 1, None), *stops("b1", "keep_alive")]

    def test_a_timer_that_comes_too_late_does_nothing(self) -> None:
        """The request that came first has the backend."""
        play = Play()
        play.ready("b1", A)
        play.now_s = KEEP_S
        play(Acquire(1, A))

        assert play(TimerFired("b1", 1)) == []

    def test_what_a_request_asks_holds_until_another_asks(self) -> None:
        play = Play()
        play(Acquire(1, A, keep_alive_s=7.0), Started("b1", 1))

        assert play(Released(1))[-1] == SetTimer("b1", 1, 7.0)
        assert play(Acquire(2, A), Released(2))[-1] == SetTimer("b1", 1, 7.0)
        assert play(Acquire(3, A, keep_alive_s=9.0), Released(3))[-1] == SetTimer("b1", 1, 9.0)

    def test_a_changed_default_just_applies(self) -> None:
        play = Play()
        play.ready("b1", A)

        effects = play(Acquire(1, A, None, MatchPolicy(default_keep_alive_s=1.0)), Released(1))

        assert effects[-1] == SetTimer("b1", 1, 1.0)

    def test_zero_unloads_at_once_when_idle(self) -> None:
        play = Play()
        play(Acquire(1, A, keep_alive_s=0.0), Acquire(2, A), Started("b1", 1))

        assert play(Released(1)) == []
        assert play(Released(2)) == [Idle("b1", 1), *stops("b1", "keep_alive")]

    def test_forever_sets_no_timer(self) -> None:
        play = Play()
        play(Acquire(1, A, keep_alive_s=inf), Started("b1", 1))

        assert play(Released(1)) == [Idle("b1", 1)]


class TestFailure:
    def test_all_who_wait_are_told_and_the_next_in_time_tries_anew(self) -> None:
        """The failed one stays listed with its error, and starts again under its own id."""
        play = Play()
        play(Acquire(1, A), Acquire(2, A))

        assert play(StartFailed("b1", 1, "bad file")) == [
            changed("b1", "starting", "gone", "bad file"),
            Fail(1, "bad file", 1.0),
            Fail(2, "bad file", 1.0),
        ]
        assert play.scheduler.backends["b1"].last_error == "bad file"
        play.now_s = 1.0
        assert play(Acquire(3, A)) == [Start("b1", 2)]
        assert play(Started("b1", 2))[1:] == [Grant(3, "b1", 2)]
        assert play.scheduler.backends["b1"].last_error is None

    def test_killed_while_loading_but_another_one_serves(self) -> None:
        play = Play()
        play(Acquire(1, A), Acquire(2, A_LARGE), Started("b2", 1))

        assert play(StartFailed("b1", 1, "killed", killed=True))[1:] == [Grant(1, "b2", 1)]

    def test_killed_while_loading_is_tried_once_more(self) -> None:
        play = Play()
        play(Acquire(1, A), Acquire(2, A))

        assert play(StartFailed("b1", 1, "killed", killed=True))[1:] == [Start("b1", 2)]
        assert play(StartFailed("b1", 2, "killed", killed=True))[1:] == [
            Fail(1, "killed", 1.0),
            Fail(2, "killed", 1.0),
        ]

    def test_a_crash_while_ready(self) -> None:
        """Its requests see it themselves; the next one starts another, and late leavers do not
        count there."""
        play = Play()
        play.ready("b1", A)
        play(Acquire(1, A))

        assert play(Exited("b1", 1, "signal 9")) == [changed("b1", "ready", "gone", "signal 9")]
        assert play(Acquire(2, A)) == [Start("b1", 2)]
        assert play(Started("b1", 2), Released(1))[1:] == [Grant(2, "b1", 2)]
        assert play.scheduler.backends["b1"].in_flight == 1

    def test_a_crash_of_a_draining_one_lets_the_queued_go_on(self) -> None:
        play = Play()
        play.ready("b1", A)
        play(Acquire(1, A), Unload("b1"), Acquire(2, A))

        assert play(Exited("b1", 1, "signal 9"))[1:] == [Start("b1", 2)]

    def test_word_of_an_earlier_start_is_dropped(self) -> None:
        play = Play()
        play(Acquire(1, A), StartFailed("b1", 1, "bad"), Acquire(2, A, insists=True))

        assert play(Started("b1", 1), Exited("b1", 1, ""), StartFailed("b7", 1, "")) == []
        assert play.scheduler.stale == 3
        assert play.states() == {"b1": "starting"}

    def test_failures_are_forgotten_at_last(self) -> None:
        play = Play()
        for number in range(MAX_GONE + 5):
            play(Acquire(number, replace(A, model=f"m{number}")))
            play(StartFailed(f"b{number + 1}", 1, "bad"))

        assert len(play.scheduler.backends) == MAX_GONE
        assert "b1" not in play.scheduler.backends


class TestRoom:
    """An RPC server has one client at a time, so that backends which share one take turns."""

    A_RPC = replace(A, rpc=("h:1", "h:2"))
    B_RPC = replace(B, rpc=("h:2",))

    def test_an_idle_backend_makes_way(self) -> None:
        play = Play()
        play.ready("b1", self.A_RPC)

        effects = play(Acquire(1, self.B_RPC))
        assert [e for e in effects if isinstance(e, Start | Stop)] == [Stop("b1", 1)]
        assert Changed("b1", 1, "ready", "draining", "rpc") in effects, "it is told why"
        assert Start("b2", 1) in play(Exited("b1", 1, ""))
        assert Grant(1, "b2", 1) in play(Started("b2", 1))

    def test_a_busy_backend_finishes_first(self) -> None:
        play = Play()
        play.ready("b1", self.A_RPC)
        play(Acquire(1, self.A_RPC), Acquire(2, self.B_RPC))

        assert Stop("b1", 1) in play(Released(1))
        assert play.states() == {"b1": "stopping", "b2": "starting"}

    def test_they_take_turns_in_the_order_of_asking(self) -> None:
        """Request 3 is for the one that is leaving; it is served after the one that asked first."""
        play = Play()
        play.ready("b1", self.A_RPC)
        play(Acquire(1, self.A_RPC), Acquire(2, self.B_RPC), Acquire(3, self.A_RPC))
        play(Released(1))

        assert Start("b2", 1) in play(Exited("b1", 1, ""))
        assert Grant(2, "b2", 1) in play(Started("b2", 1))
        play(Released(2))
        assert Start("b3", 1) in play(Exited("b2", 1, ""))
        assert Grant(3, "b3", 1) in play(Started("b3", 1))

    def test_one_that_was_never_started_is_just_forgotten(self) -> None:
        play = Play()
        play.ready("b1", self.A_RPC)
        play(Acquire(1, self.A_RPC), Acquire(2, self.B_RPC), Released(2))

        assert changed("b2", "draining", "gone", "drained") in play(Unload("b2"))
        assert play.states() == {"b1": "draining"}

    def test_a_replacement_comes_after_the_old_one(self) -> None:
        play = Play()
        play.ready("b1", self.A_RPC)

        larger = replace(self.A_RPC, ctx=16384)
        assert Stop("b1", 1) in play(Replace("b1", larger))
        assert Start("b2", 1) in play(Exited("b1", 1, ""))

    def test_what_was_blocked_by_one_that_was_never_started_is_started_once(self) -> None:
        """The one in between waits for a busy one, and nobody waits for it any more."""
        play = Play()
        play.ready("b1", B_ONE := replace(B, rpc=("h:1",)))
        play(Acquire(1, B_ONE))
        play(Acquire(2, self.A_RPC), Released(2))

        effects = play(Acquire(3, self.B_RPC))

        assert effects.count(Start("b3", 1)) == 1
        assert play.states() == {"b1": "draining", "b3": "starting"}
