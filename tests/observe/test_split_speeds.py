"""How fast answers were written at each split."""

from proxy.observe.split_speeds import KEPT, SplitSpeeds


def test_seconds_in_which_the_split_stayed_count() -> None:
    speeds = SplitSpeeds()
    for split, speed in (
        (4, 1.0),
        (4, 20.0),
        (4, 22.0),
        (8, 30.0),
        (8, 10.0),
        (4, 2.0),
        (None, 5.0),
    ):
        speeds.note("a", split, speed)
    speeds.note("b", 4, 7.0)

    assert speeds.of("a") == {4: 21.0, 8: 10.0}
    assert speeds.of("b") == {}


def test_only_the_last_ones_are_kept() -> None:
    speeds = SplitSpeeds()
    for _ in range(KEPT * 3):
        speeds.note("a", 4, 1.0)
    for _ in range(KEPT):
        speeds.note("a", 4, 9.0)

    assert speeds.of("a") == {4: 9.0}
