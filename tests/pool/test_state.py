"""The one way in which a backend's state changes."""

from itertools import pairwise
from pathlib import Path

import pytest

from proxy.engine.types import LoadOptions
from proxy.pool.effects import Changed
from proxy.pool.state import LEGAL, Backend, BackendState, IllegalMove, advance

STARTING, READY, DRAINING, STOPPING, GONE = BackendState
OPTIONS = LoadOptions("m", Path("m.gguf"))


def test_all_that_becomes_of_one_is_told_step_by_step() -> None:
    """Each step is an effect with the old state, the new one and the reason."""
    backend = Backend("b1", OPTIONS)
    run = [STARTING, READY, DRAINING, STOPPING, GONE]

    told = [advance(backend, state, "because") for state in run[1:]]

    assert told == [Changed("b1", 1, a.value, b.value, "because") for a, b in pairwise(run)]


@pytest.mark.parametrize("state", BackendState)
def test_no_illegal_move(state: BackendState) -> None:
    """Whatever is not in the table raises, and changes nothing."""
    for new in set(BackendState) - LEGAL[state]:
        backend = Backend("b1", OPTIONS, state=state)
        with pytest.raises(IllegalMove, match="cannot become"):
            advance(backend, new, "test")
        assert backend.state is state


def test_repr_says_what_matters_in_one_line() -> None:
    plain = Backend("b1", OPTIONS)
    failed = Backend(
        "b2",
        LoadOptions("m", Path("m.gguf"), mode="embedding", split=3),
        generation=2,
        state=GONE,
        last_error="first\nlast",
    )

    assert repr(plain) == "<b1 m ctx=8192 starting in_flight=0 waiting=0>"
    assert repr(failed) == (
        "<b2 m ctx=8192 embedding split=3 generation=2 gone in_flight=0 waiting=0 error='last'>"
    )
