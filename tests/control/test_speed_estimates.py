"""What a number rests on, and why there is none."""

import asyncio
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from proxy.control.speed_estimates import APART, BUSY, NO_RAM, SpeedEstimates, estimated
from proxy.engine.types import CPU, Layer, LoadOptions, Status
from proxy.memory.readings import DeviceReading
from proxy.memory.snapshot import Snapshot
from proxy.placement.generation_speed import TokenReads
from tests.support.models import model

GB = 10**9
STATUS = Status(2, tuple(Layer(index, CPU, GB, "D") for index in (0, 1)))
READS = TokenReads((GB, GB), (GB, GB), 0)
HOST, BOTH = {CPU: 10.0 * GB}, {CPU: 10.0 * GB, "D": 100.0 * GB}


def test_with_all_speeds_known_it_is_what_memory_allows_and_says_so() -> None:
    found = estimated(STATUS, READS, {}, BOTH)

    assert found.basis == "header"
    assert found.speeds == pytest.approx({0: 1 / 0.04, 1: 1 / 0.13, 2: 1 / 0.22})
    assert "limits" in found.why
    assert "main memory 10 GB/s, D 100 GB/s" in found.why


def test_with_a_device_of_unknown_speed_there_is_no_number_but_a_reason() -> None:
    found = estimated(STATUS, READS, {}, HOST)

    assert (found.basis, found.speeds) == (None, {})
    assert found.why == "the speed of D's memory is not known"


def test_one_split_that_was_measured_is_kept_and_others_follow_from_it() -> None:
    found = estimated(STATUS, READS, {1: 4.0}, BOTH)

    assert found.basis == "one"
    assert found.speeds == pytest.approx({0: 1 / 0.16, 1: 4.0, 2: 1 / 0.34})
    assert "N = 1" in found.why


def test_from_one_split_an_unknown_device_is_left_out_and_that_is_said() -> None:
    found = estimated(STATUS, READS, {1: 4.0}, HOST)

    assert found.speeds == pytest.approx({0: 1 / 0.15, 1: 4.0, 2: 1 / 0.35})
    assert "D's memory is not known, and not counted" in found.why


def test_without_a_device_in_it_main_memory_is_enough() -> None:
    alone = Status(2, tuple(Layer(index, CPU, GB, CPU) for index in (0, 1)))

    assert estimated(alone, READS, {}, HOST).speeds == pytest.approx(dict.fromkeys(range(3), 2.5))


def test_experts_apart_from_attention_are_not_guessed_at() -> None:
    apart = Status(2, (Layer(0, "E", GB, "D"), Layer(1, CPU, GB, "D")))

    assert estimated(apart, READS, {1: 4.0}, BOTH).why == APART


# --- what is gathered for it ---


class Rig:
    def __init__(self, rate: float | None = 10.0 * GB) -> None:
        self.busy, self.rate, self.measured = False, rate, list[int | None]()
        reading = DeviceReading("D", "", "nvml:GPU-0", bandwidth=100 * GB)
        memory = Mock(latest=lambda: Snapshot(devices={"D": reading}))
        self.estimates = SpeedEstimates(memory, lambda: self.busy, self._measure)

    def _measure(self, threads: int | None) -> float | None:
        self.measured.append(threads)
        return self.rate


STATUS_12 = Status(12, tuple(Layer(index, CPU, GB, "D") for index in range(12)))


def named(path: Path, name: str, **options: Any) -> Any:
    made = Mock(engine=Mock(known=lambda: STATUS_12), options=LoadOptions(name, path, **options))
    made.name = (name, 1)  # Mock takes a `name` for itself
    return made


async def test_main_memory_is_measured_once_for_each_number_of_threads() -> None:
    rig, a, b = Rig(), named(model(), "a"), named(model(), "b", threads=3)

    found = await asyncio.gather(*(rig.estimates.of(each, {}) for each in (a, b, a, b)))

    assert sorted(rig.measured, key=str) == [3, None]
    assert [each.basis for each in found] == ["header"] * 4
    assert list(found[0].speeds) == list(range(13))


async def test_while_a_model_answers_memory_is_not_measured() -> None:
    rig, a = Rig(), named(model(), "a")
    rig.busy = True
    first = await rig.estimates.of(a, {})
    rig.busy = False
    later = await rig.estimates.of(a, {})

    assert (first.basis, first.why) == (None, BUSY)
    assert (later.basis, rig.measured) == ("header", [None])


async def test_a_machine_without_room_to_measure_says_so() -> None:
    assert (await Rig(None).estimates.of(named(model(), "a"), {3: 9.0})).why == NO_RAM


async def test_a_file_that_is_gone_is_a_reason(tmp_path: Path) -> None:
    found = await Rig().estimates.of(named(tmp_path / "gone.gguf", "a"), {})

    assert found.basis is None
    assert "gone.gguf" in found.why
