"""When the machine's memory is short, told once an episode."""

import pytest

from proxy.memory.pressure import CALM_S, Episodes, pressure_of
from proxy.memory.readings import HostReading

GIB = 1 << 30
WELL = HostReading(available_bytes=8 * GIB, pressure=0.0)
SHORT = HostReading(available_bytes=GIB // 2, pressure=0.0)


@pytest.mark.parametrize(
    ("reading", "words"),
    [
        (WELL, None),
        (HostReading(), None),  # unknown is unknown
        (HostReading(available_bytes=GIB, pressure=0.1), None),
        (SHORT, "0.50 GiB of RAM are available"),
        (HostReading(pressure=0.25), "programs wait for memory 25% of the time"),
        (
            HostReading(available_bytes=0, pressure=0.5),
            "programs wait for memory 50% of the time; 0 MiB of RAM are available",
        ),
    ],
)
def test_what_is_said(reading: HostReading, words: str | None) -> None:
    assert pressure_of(reading) == words


def test_an_episode_is_told_once_and_ends_when_it_has_been_quiet() -> None:
    episodes = Episodes()
    trace = [(0, WELL), (1, SHORT), (2, SHORT), (3, WELL), (5, SHORT), (6, WELL)]
    told = [episodes.look(reading, at) for at, reading in trace]

    assert told == [None, "begun", None, None, None, None]
    assert episodes.look(WELL, 5 + CALM_S - 0.1) is None
    assert episodes.look(WELL, 5 + CALM_S) == "over"
    assert episodes.look(WELL, 100) is None
    assert episodes.look(SHORT, 101) == "begun"
