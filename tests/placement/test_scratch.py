"""The allocator that is played through."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.placement.scratch import ALIGNMENT, AllocTrace, peak_bytes


def test_a_place_is_used_again() -> None:
    tape = AllocTrace()
    first = tape.add(1024)
    second = tape.add(1024, first)
    tape.add(1024, second)

    assert peak_bytes(tape.nodes) == 2048


def test_an_operation_in_place_takes_none_unless_its_source_is_still_needed() -> None:
    tape = AllocTrace()
    first = tape.add(1024)
    second = tape.add(1024, first, in_place=True)
    assert peak_bytes(tape.nodes) == 1024

    tape.add(0, first, second)
    assert peak_bytes(tape.nodes) == 2048


def test_a_hole_that_is_too_small_stays_empty() -> None:
    tape = AllocTrace()
    small, kept = tape.add(1024), tape.add(1024)
    tape.add(0, small)
    large = tape.add(2048)
    tape.add(0, kept, large)

    assert peak_bytes(tape.nodes) == 4096


@given(st.data())
def test_the_peak_is_between_what_is_alive_and_the_sum(data: st.DataObject) -> None:
    tape = AllocTrace()
    for index in range(data.draw(st.integers(1, 30))):
        sources = data.draw(st.lists(st.integers(0, max(index - 1, 0)), max_size=3, unique=True))
        size = data.draw(st.integers(1, 64)) * ALIGNMENT
        tape.add(size, *(sources if index else ()), in_place=data.draw(st.booleans()))
    last = [
        max((j for j, node in enumerate(tape.nodes) if i in node.sources), default=len(tape.nodes))
        for i in range(len(tape.nodes))
    ]
    # In place, a result may share the place of a source that is needed for the last time.
    alive = max(
        sum(node.size_bytes for i, node in enumerate(tape.nodes) if i <= now < last[i])
        for now in range(len(tape.nodes))
    )

    assert alive <= peak_bytes(tape.nodes) <= sum(node.size_bytes for node in tape.nodes)
