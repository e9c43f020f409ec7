"""What a start is called, and which of the backends it is."""

from dataclasses import replace
from pathlib import Path

from proxy.engine.types import LoadOptions
from proxy.pool.roster import MAX_GONE, Roster
from proxy.pool.state import Backend, BackendState

OPTIONS = LoadOptions("m", Path("m.gguf"))


def entered(roster: Roster, options: LoadOptions, state: BackendState) -> Backend:
    name, generation = roster.next_name(options)
    roster[name] = Backend(name, options, generation, state=state)
    return roster[name]


def test_one_that_failed_starts_again_under_its_own_id() -> None:
    roster = Roster()
    failed = entered(roster, OPTIONS, BackendState.GONE)
    other = entered(roster, replace(OPTIONS, ctx=1), BackendState.READY)
    again = entered(roster, OPTIONS, BackendState.STARTING)

    assert [b.name for b in (failed, other, again)] == [("b1", 1), ("b2", 1), ("b1", 2)]
    assert entered(roster, OPTIONS, BackendState.STARTING).name == ("b3", 1)


def test_a_start_that_is_history_is_none() -> None:
    roster = Roster()
    entered(roster, OPTIONS, BackendState.GONE)
    again = entered(roster, OPTIONS, BackendState.READY)

    assert roster.current(("b1", 2)) is again
    for name in (("b1", 1), ("b2", 1), None):
        assert roster.current(name) is None


def test_of_many_failures_the_oldest_are_forgotten() -> None:
    roster = Roster()
    ready = entered(roster, OPTIONS, BackendState.READY)
    for ctx in range(MAX_GONE + 2):
        entered(roster, replace(OPTIONS, ctx=ctx), BackendState.GONE)

    roster.forget_old_failures()

    assert list(roster) == [ready.id, *(f"b{number + 4}" for number in range(MAX_GONE))]
