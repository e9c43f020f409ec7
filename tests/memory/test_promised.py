"""What was promised to others is not free here, though nobody has it yet."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from proxy.memory.promised import beside, sources_beside
from proxy.memory.readings import Sample
from tests.support.nvml import StandInCard, StandInNvml

GIB = 1 << 30


@pytest.mark.parametrize(
    ("sample", "size", "left"),
    [
        (Sample(8, 5, 3), 2, Sample(8, 3, 5)),
        (Sample(8, 5, 3), 9, Sample(8, 0, 8)),
        (Sample(8, 5, None), 2, Sample(8, 3, None)),
        (Sample(None, None, None), 2, Sample(None, None, None)),
    ],
)
def test_it_is_as_if_another_program_had_it(sample: Sample, size: int, left: Sample) -> None:
    assert beside(sample, size) == left


def test_of_each_source_what_was_promised_of_it(tmp_path: Path) -> None:
    promised: Mapping[str, int] = {"GPU-0": GIB, "ram": 1 << 60}
    driver = StandInNvml(tmp_path, StandInCard(total=8 * GIB), StandInCard(total=8 * GIB))
    with driver.loaded():
        sources = sources_beside(lambda: promised, "ram")
        cards = sources["nvml"].cards()
        free = [sources["nvml"].read(card.id).free_bytes for card in cards]

        assert free == [7 * GIB, 8 * GIB]
        assert sources["host"]().available_bytes == 0
