"""When a start that failed may be made again."""

from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import given

from proxy.engine.files import Files
from proxy.engine.types import LoadOptions
from proxy.pool.failures import FORGOTTEN_S, LONGEST_S, MOST_KEPT, Failures

M = LoadOptions("m", Path("m.gguf"))
OLD: Files = (("m.gguf", 1, 1, 1),)
NEW: Files = (("m.gguf", 1, 2, 1),)


def waits(failures: Failures, times: int, *, in_doubt: bool = False) -> list[float]:
    """How long each of so many failures makes the next start wait, each made as soon as may be."""
    now_s, waited = 0.0, []
    for _ in range(times):
        failure = failures.note(M, "bad", OLD, now_s, in_doubt=in_doubt)
        waited.append(failure.retry_at_s - now_s)
        now_s = failure.retry_at_s
    return waited


def test_each_wait_is_twice_the_last_up_to_the_longest() -> None:
    assert waits(Failures(), 11) == [1, 2, 4, 8, 16, 32, 64, 128, 256, LONGEST_S, LONGEST_S]


def test_no_number_of_failures_is_too_large() -> None:
    assert waits(Failures(), 3000)[-1] == LONGEST_S


def test_the_first_is_forgiven_where_it_may_be_nobodys_fault() -> None:
    assert waits(Failures(), 4, in_doubt=True) == [0, 1, 2, 4]


def test_the_second_counts_whatever_it_was() -> None:
    failures = Failures()
    failures.note(M, "bad", OLD, 0.0, in_doubt=False)

    assert failures.note(M, "killed", OLD, 1.0, in_doubt=True).count == 2


def test_it_refuses_with_the_last_reason_until_the_time_has_come() -> None:
    failures = Failures()
    failures.note(M, "first", OLD, 0.0, in_doubt=False)
    failure = failures.note(M, "second", OLD, 10.0, in_doubt=False)

    assert failure.reason == "second"
    assert failures.refusing(M, OLD, 11.9) == failure
    assert failure.wait_s(11.5) == failures.wait_s(M, 11.5) == 0.5
    assert failures.refusing(M, OLD, 12.0) is None
    assert failures.wait_s(M, 12.0) == failures.wait_s(M, 99.0) == 0.0


def test_other_options_are_another_start() -> None:
    failures = Failures()
    failures.note(M, "bad", OLD, 0.0, in_doubt=False)

    for field in ({"ctx": 1}, {"args": ("-fa",)}, {"model": "n"}, {"mode": "embedding"}):
        assert failures.refusing(replace(M, **field), OLD, 0.0) is None


def test_another_batch_or_cache_is_the_same_start() -> None:
    """They are chosen anew for each by what is free just then."""
    failures = Failures()
    failures.note(replace(M, ubatch=512), "bad", OLD, 0.0, in_doubt=False)

    assert failures.refusing(replace(M, ubatch=64), OLD, 0.0)
    assert failures.refusing(replace(M, cache_mib=64, cached_layers=4), OLD, 0.0)
    failures.forget(replace(M, ubatch=32))
    assert failures.of(M) is None


def test_another_file_is_another_start() -> None:
    failures = Failures()
    failures.note(M, "bad", OLD, 0.0, in_doubt=False)

    assert failures.refusing(M, None, 0.0), "nobody looked"
    assert failures.refusing(M, NEW, 0.0) is None
    assert failures.note(M, "bad too", NEW, 0.0, in_doubt=False).count == 1


def test_what_nobody_tried_for_long_begins_anew() -> None:
    failures = Failures()
    waits(failures, 5)
    last = failures.of(M)
    assert last
    late_s = last.retry_at_s + FORGOTTEN_S

    assert failures.note(M, "bad", OLD, late_s, in_doubt=False).count == 6
    assert failures.note(M, "bad", OLD, late_s + 32 + FORGOTTEN_S + 1, in_doubt=False).count == 1


@given(st.lists(st.integers(0, 2 * MOST_KEPT), max_size=3 * MOST_KEPT))
def test_no_more_are_kept_than_may_be_and_those_are_the_last(models: list[int]) -> None:
    failures = Failures()
    for at, model in enumerate(models):
        failures.note(replace(M, model=str(model)), "bad", OLD, float(at), in_doubt=False)
    last = list(dict.fromkeys(reversed(models)))

    for at, model in enumerate(last):
        assert bool(failures.of(replace(M, model=str(model)))) == (at < MOST_KEPT)
