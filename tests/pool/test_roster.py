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

    roster.forget_old_failures(roster[f"b{MAX_GONE + 3}"])

    assert list(roster) == [ready.id, *(f"b{number + 4}" for number in range(MAX_GONE))]


def test_of_failures_of_one_start_only_the_last_is_listed() -> None:
    """Those that lived on and did not serve were not gone yet when the next one was named. The
    batch is chosen anew for each start, and makes it no other."""
    roster = Roster()
    starting = [entered(roster, OPTIONS, BackendState.STARTING) for _ in range(2)]
    starting.append(entered(roster, replace(OPTIONS, ubatch=64), BackendState.STARTING))
    other = entered(roster, replace(OPTIONS, ctx=1), BackendState.GONE)
    for backend in starting:
        backend.state = BackendState.GONE

    roster.forget_old_failures(starting[2])

    assert list(roster.values()) == [starting[2], other]
    assert roster.next_name(OPTIONS) == ("b3", 2)
