"""What has to be given back of a domain's memory, and what may still be taken."""

from dataclasses import replace

import pytest

from proxy.placement.device_budget import DeviceBudget

ROOM = DeviceBudget(10, reserve_bytes=4, low_bytes=2)


@pytest.mark.parametrize(
    ("budget", "deficit", "available"),
    [
        (ROOM, 0, 6),
        (replace(ROOM, free_bytes=3), 0, 0),
        (replace(ROOM, free_bytes=1), 3, 0),
        (replace(ROOM, over_limit_bytes=5), 5, 0),
        (replace(ROOM, over_limit_bytes=-5), 0, 5),
        (replace(ROOM, promised_bytes=2), 0, 4),
        (replace(ROOM, over_limit_bytes=-5, promised_bytes=2), 0, 3),
        (replace(ROOM, promised_bytes=9), 0, 0),
        (replace(ROOM, experts=False), 0, 0),
        (replace(ROOM, free_bytes=None), 0, 0),
        (replace(ROOM, free_bytes=None, over_limit_bytes=-5), 0, 5),
    ],
)
def test_what_is_given_back_and_what_may_be_taken(
    budget: DeviceBudget, deficit: int, available: int
) -> None:
    assert (budget.deficit_bytes, budget.available_bytes) == (deficit, available)


def test_what_is_spare_may_be_less_than_nothing_or_not_known() -> None:
    assert replace(ROOM, free_bytes=3, promised_bytes=2).spare_bytes == -3
    assert replace(ROOM, free_bytes=None).spare_bytes is None


def test_what_leaves_is_free_and_off_the_limit() -> None:
    freed = replace(ROOM, over_limit_bytes=1).with_freed(2)

    assert (freed.free_bytes, freed.over_limit_bytes) == (12, -1)
    assert replace(ROOM, free_bytes=None).with_freed(2) == replace(ROOM, free_bytes=None)


def test_of_two_devices_on_one_card_the_stricter_rule_counts() -> None:
    """Whichever of them is told first."""
    one = DeviceBudget(10, reserve_bytes=4, low_bytes=4, over_limit_bytes=-1)
    other = DeviceBudget(9, reserve_bytes=6, low_bytes=6, experts=False)

    both = DeviceBudget(9, reserve_bytes=6, low_bytes=6, over_limit_bytes=-1, experts=False)
    assert one.merge(other) == other.merge(one) == both
