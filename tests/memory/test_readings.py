"""PCI bus ids in one form, and whose memory it is."""

import pytest

from proxy.memory.readings import Sample, ours_of, pci_bus_id


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("0000:c1:00.0", "0000:c1:00.0"),
        ("00000000:C1:00.0", "0000:c1:00.0"),
        ("0001000A:C1:00.1", "1000a:c1:00.1"),
        ("c1:00.0", "0000:c1:00.0"),
        ("0000:c1:00.0-v1", "0000:c1:00.0"),
        ("GPU-5a1c", None),
        ("", None),
        (None, None),
    ],
)
def test_a_bus_id_has_one_form(text: str | None, same: str | None) -> None:
    assert pci_bus_id(text) == same


@pytest.mark.parametrize(
    ("processes", "ours"),
    [
        ({7: 100, 8: 50, 9: 25}, 150),  # 9 is somebody else
        ({7: 100, 9: 25}, 100),  # our other process does nothing on this card
        ({9: 25}, None),  # numbered otherwise, maybe
        ({}, None),
        (None, None),
        ({7: 100, 8: None}, None),  # a sum of which a part is not known
    ],
)
def test_ours_is_what_the_list_says_of_our_processes(
    processes: dict[int, int | None] | None, ours: int | None
) -> None:
    assert ours_of(Sample(1000, 500, 500, processes), {7, 8}) == ours
