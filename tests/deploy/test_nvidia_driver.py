"""What the driver says, by a stand-in for its library."""

from pathlib import Path

import nvidia_driver
import pytest
from nvidia_driver import Card, Driver

from tests.support.nvml import DRIVER_NOT_LOADED, GPU_IS_LOST, StandInCard, StandInNvml

NEW, OLD = StandInCard(name="RTX 5090", capability=120), StandInCard(name="GTX 1080", capability=61)


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandInNvml:
    found = StandInNvml(tmp_path, NEW, OLD)
    for name, value in found.env().items():
        monkeypatch.setenv(name, value)
    return found


def test_its_version_and_each_card_s_architecture(nvml: StandInNvml) -> None:
    nvml.driver(version="575.64.03")

    told = nvidia_driver.ask()

    assert told == Driver("575.64.03", (Card("RTX 5090", 120), Card("GTX 1080", 61)))
    assert told.branch == 575


def test_a_card_that_is_lost_keeps_no_other_from_its_build(nvml: StandInNvml) -> None:
    nvml.change(0, error=GPU_IS_LOST)

    assert nvidia_driver.ask() == Driver("580.65.06", (Card("GTX 1080", 61),))


def test_why_it_says_nothing(nvml: StandInNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.driver(error=DRIVER_NOT_LOADED)
    assert "nvmlInitWithFlags: NVML's error 9" in str(nvidia_driver.ask())

    monkeypatch.setattr(nvidia_driver, "ASK_S", 0.1)
    nvml.driver(hang_s=20.0)
    assert "did not answer within" in str(nvidia_driver.ask())

    monkeypatch.setenv("LD_LIBRARY_PATH", "")
    monkeypatch.setattr(nvidia_driver, "ASK_S", 30.0)
    if not isinstance(told := nvidia_driver.ask(), Driver):  # here may be a real one
        assert "was not found (libnvidia-ml.so.1" in told


def test_a_version_that_is_none_is_told() -> None:
    assert "no number: 'N/A'" in str(nvidia_driver.parsed('{"version": "N/A", "cards": []}'))
