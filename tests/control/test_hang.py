"""When a worker is taken to hang, by what was seen of it."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from proxy.control.hang import (
    COMPUTING_TIMES,
    LOOK_S,
    MOST_S,
    PAGES,
    Limits,
    Look,
    Vigil,
    look_on,
    verdict,
)

LIMITS = Limits(silent_s=60.0, stalled_s=600.0)
FINE = Look(0.0, went_on=True)
SILENT = Look(0.0, answers="no")
LOST = Look(0.0, answers="lost")
STALLED = Look(0.0, has_work=True)
LONG = 10_000


def first_verdict(looks: Iterable[Look], limits: Limits = LIMITS) -> tuple[int, str] | None:
    """After how many looks, one a second, it is taken to hang, and why."""
    vigil = Vigil(0.0)
    for number, look in enumerate(looks, 1):
        vigil = look_on(vigil, replace(look, at_s=number * LOOK_S))
        if why := verdict(vigil, limits):
            return number, why
    return None


@pytest.mark.parametrize(
    ("look", "after", "why"),
    [
        pytest.param(SILENT, 61, "has not answered the proxy for 61 s", id="stopped"),
        pytest.param(LOST, 6, "nobody can reach it any more", id="nobody will answer any more"),
        pytest.param(STALLED, 601, "nothing went on for 601 s", id="stuck in a driver"),
        pytest.param(replace(STALLED, cpu_s=1.0), 601, "nothing went on", id="it spins"),
        pytest.param(
            replace(STALLED, cpu_s=3.9), 600 * COMPUTING_TIMES + 1, "nothing went on", id="computes"
        ),
        pytest.param(
            replace(SILENT, cpu_s=3.9), 60 * COMPUTING_TIMES + 1, "not answered", id="silent at it"
        ),
        pytest.param(replace(STALLED, answers="no"), 61, "has not answered", id="both"),
        pytest.param(replace(STALLED, pages=PAGES - 1), 601, "nothing", id="hardly reads"),
    ],
)
def test_it_hangs(look: Look, after: int, why: str) -> None:
    found = first_verdict([look] * LONG)

    assert found is not None
    assert found[0] == after
    assert why in found[1]


@pytest.mark.parametrize(
    "looks",
    [
        pytest.param([FINE], id="it serves"),
        pytest.param([Look(0.0)], id="it is idle"),
        pytest.param([STALLED] * 500 + [FINE], id="a long prompt, batch by batch"),
        pytest.param([SILENT] * 50 + [FINE], id="stopped and continued"),
        pytest.param([replace(STALLED, pages=PAGES)], id="it reads the model from a disk"),
        pytest.param([replace(SILENT, pages=PAGES)], id="it is swapped in"),
        pytest.param([LOST] * 5 + [FINE], id="its end is not known yet"),
    ],
)
def test_it_does_not(looks: list[Look]) -> None:
    assert first_verdict(looks * (LONG // len(looks))) is None


def test_clients_that_give_up_and_ask_again_hide_no_stall() -> None:
    found = first_verdict(([STALLED] * 50 + [Look(0.0)] * 5) * LONG)

    assert found is not None
    assert found[0] == 600 + 12 * 5 + 1


def test_a_stall_that_ended_unseen_is_over_with_the_next_step() -> None:
    looks = [STALLED] * 590 + [Look(0.0)] * 100 + [FINE] + [STALLED] * 590

    assert first_verdict(looks) is None


def test_time_in_which_nobody_looked_does_not_count() -> None:
    """The machine slept, or all of it was stopped: a worker is looked at anew after that."""
    vigil = look_on(Vigil(0.0), replace(SILENT, at_s=1.0))
    vigil = look_on(vigil, replace(SILENT, at_s=5000.0))

    assert vigil.silent_s == 1.0 + MOST_S
    assert verdict(vigil, LIMITS) is None


def test_a_shorter_limit_holds_for_both() -> None:
    limits = Limits(2.0, 2.0)

    assert [first_verdict([look] * 9, limits) is not None for look in (SILENT, STALLED)] == [
        True
    ] * 2
