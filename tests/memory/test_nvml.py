"""NVIDIA's cards, through the real binding and a library that stands in for the driver's."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pynvml
import pytest

from proxy.memory.nvml import Nvml
from proxy.memory.readings import Card, Sample, Unreadable
from tests.support.nvml import (
    DRIVER_NOT_LOADED,
    GPU_IS_LOST,
    UNINITIALIZED,
    StandInCard,
    StandInNvml,
)

GIB = 1 << 30


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[StandInNvml]:
    stand_in = StandInNvml(
        tmp_path,
        StandInCard(total=8 * GIB, reserved=GIB // 2, others=GIB, name="RTX 4070"),
        StandInCard(total=24 * GIB, uuid="GPU-b", bus_id="00000000:02:00.0"),
    )
    with stand_in.loaded():
        yield stand_in


def test_cards_are_listed_with_the_bus_id_that_llama_cpp_uses(driver: StandInNvml) -> None:
    assert Nvml().cards() == (
        Card("GPU-0", "RTX 4070", "0000:c1:00.0", integrated=False),
        Card("GPU-b", "Stand-in", "0000:02:00.0", integrated=False),
    )


def test_what_the_driver_keeps_for_itself_is_neither_free_nor_used(driver: StandInNvml) -> None:
    driver.process(7, used=2 * GIB)
    driver.process(8, used=GIB, card=1)

    assert Nvml().read("GPU-0") == Sample(
        8 * GIB, 9 * GIB // 2, 3 * GIB, {7: 2 * GIB}, integrated=False
    )


def test_a_card_is_found_by_its_bus_id_too(driver: StandInNvml) -> None:
    assert Nvml().read("0000:02:00.0").total_bytes == 24 * GIB


def test_a_process_that_computes_and_draws_has_its_memory_once(driver: StandInNvml) -> None:
    driver.process(7, used=2 * GIB)
    driver.process(7, used=2 * GIB, graphics=True)
    driver.process(9, used=GIB, graphics=True)

    sample = Nvml().read("GPU-0")

    assert sample.processes == {7: 2 * GIB, 9: GIB}
    assert sample.used_bytes == 4 * GIB


def test_a_process_of_unknown_size_is_unknown_and_not_0(driver: StandInNvml) -> None:
    driver.process(7, used=None)

    assert Nvml().read("GPU-0").processes == {7: None}


@pytest.mark.parametrize("after", [GIB, 3 * GIB])
def test_what_comes_or_goes_while_it_is_read_is_nobody_elses(
    driver: StandInNvml, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """The sums and the list of processes are two questions to the driver."""
    driver.process(7, used=2 * GIB)
    ask = pynvml.nvmlDeviceGetComputeRunningProcesses_v3

    def changed_before(handle: object) -> object:
        driver.process(7, used=after)
        return ask(handle)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses_v3", changed_before)

    sample = Nvml().read("GPU-0")

    assert sample.processes == {7: after}
    assert sample.used_bytes == GIB + after, "others have what they had"
    assert sample.free_bytes == 13 * GIB // 2 - after


def test_a_card_that_is_never_still_is_read_all_the_same(
    driver: StandInNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.process(7, used=0)
    ask, used = pynvml.nvmlDeviceGetComputeRunningProcesses_v3, iter(range(1000))

    def changed_before(handle: object) -> object:
        driver.process(7, used=next(used))
        return ask(handle)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses_v3", changed_before)

    assert (Nvml().read("GPU-0").used_bytes or 0) >= GIB
    assert next(used) < 10


def test_a_process_may_follow_a_real_one(driver: StandInNvml) -> None:
    driver.process(7, follows=os.getpid())

    used = (Nvml().read("GPU-0").processes or {})[7]

    assert used is not None
    assert used > 1 << 20


def test_an_old_driver_has_less_to_say(driver: StandInNvml) -> None:
    driver.change(old=True)

    assert Nvml().read("GPU-0") == Sample(
        8 * GIB, 13 * GIB // 2, 3 * GIB // 2, None, integrated=False
    )


def test_a_gpu_that_shares_the_hosts_memory_has_none_of_its_own(driver: StandInNvml) -> None:
    driver.change(shared=True)

    assert Nvml().read("GPU-0") == Sample(None, None, None, integrated=True)
    assert Nvml().cards()[0] == Card(
        "GPU-0", "RTX 4070", "0000:c1:00.0", integrated=True, readable=False
    )


def test_a_card_in_parts_is_not_taken_for_one_of_them(driver: StandInNvml) -> None:
    driver.change(mig=True)

    assert Nvml().cards()[0] == Card(
        "GPU-0", "RTX 4070, in MIG mode", "0000:c1:00.0", readable=False
    )


def test_a_driver_that_spills_is_named(driver: StandInNvml) -> None:
    assert not Nvml().read("GPU-0").spills

    driver.process(7, used=9 * GIB)
    assert Nvml().read("GPU-0").spills

    driver.change(1, wddm=True)
    assert Nvml().read("GPU-b").spills


def test_an_error_of_one_card_is_its_own(driver: StandInNvml) -> None:
    nvml = Nvml()
    nvml.read("GPU-0"), nvml.read("GPU-b")

    driver.change(error=GPU_IS_LOST)

    with pytest.raises(Unreadable, match="NVML, GPU-0: GPU is lost"):
        nvml.read("GPU-0")
    assert nvml.read("GPU-b").total_bytes == 24 * GIB

    driver.change(error=0)
    assert nvml.read("GPU-0").total_bytes == 8 * GIB


def test_a_lost_card_does_not_take_the_library_from_the_others(driver: StandInNvml) -> None:
    nvml = Nvml()
    nvml.read("GPU-0"), nvml.read("GPU-b")
    driver.change(error=GPU_IS_LOST)
    with pytest.raises(Unreadable):
        nvml.read("GPU-0")

    assert pynvml.nvmlLib.nvmlShutdown() == pynvml.NVML_SUCCESS  # it was still initialised


def test_a_late_failure_does_not_end_what_was_begun_since(driver: StandInNvml) -> None:
    nvml = Nvml()
    nvml.read("GPU-0"), nvml.read("GPU-b")
    driver.change(hang_s=float("inf"), error=UNINITIALIZED)
    with ThreadPoolExecutor() as threads:
        late = threads.submit(nvml.read, "GPU-0")
        driver.wait_for_hanging_call()
        driver.driver(error=DRIVER_NOT_LOADED)
        with pytest.raises(Unreadable):
            nvml.read("GPU-b")
        driver.driver()
        nvml.read("GPU-b")

        driver.change(hang_s=0.0)
        with pytest.raises(Unreadable, match="GPU-0: Uninitialized"):
            late.result()

    assert pynvml.nvmlLib.nvmlShutdown() == pynvml.NVML_SUCCESS


@pytest.mark.parametrize("error", [UNINITIALIZED, DRIVER_NOT_LOADED])
def test_a_driver_that_goes_away_may_come_back(driver: StandInNvml, error: int) -> None:
    nvml = Nvml()
    nvml.read("GPU-0")
    driver.driver(error=error)
    for _ in range(2):
        with pytest.raises(Unreadable, match="GPU-0"):
            nvml.read("GPU-0")

    pynvml.nvmlLib.nvmlShutdown()  # a driver that was loaded anew knows of no initialisation
    driver.driver()

    assert nvml.read("GPU-0").total_bytes == 8 * GIB


def test_all_cards_lost_make_it_start_anew(driver: StandInNvml) -> None:
    nvml = Nvml()
    names = ("GPU-0", "GPU-b")
    for name in names:
        nvml.read(name)
    for index in (0, 1):
        driver.change(index, error=GPU_IS_LOST)
    for name in names:
        with pytest.raises(Unreadable):
            nvml.read(name)

    # Nothing is left initialised, so that the next one really begins from the start.
    assert pynvml.nvmlLib.nvmlShutdown() == UNINITIALIZED


def test_a_card_that_is_not_there_is_an_error_of_its_name(driver: StandInNvml) -> None:
    with pytest.raises(Unreadable, match="GPU-x: Not Found"):
        Nvml().read("GPU-x")
    with pytest.raises(Unreadable, match=r"0000:99:00\.0: Not Found"):
        Nvml().read("0000:99:00.0")


ASK = """
from proxy.memory.nvml import Nvml
from proxy.memory.readings import Unreadable
try:
    for card in Nvml().cards():
        print(card.id, Nvml().read(card.id).free_bytes)
except Unreadable as error:
    print(error)
"""


def ask(env: dict[str, str]) -> str:
    command = [sys.executable, "-c", ASK]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


def test_a_program_finds_the_stand_in_as_it_would_find_the_driver(tmp_path: Path) -> None:
    driver = StandInNvml(tmp_path, StandInCard(total=4 * GIB, others=GIB))

    assert ask(os.environ | driver.env()) == f"GPU-0 {3 * GIB}\n"


def test_a_machine_without_the_driver_says_so(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")
    env = os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}

    assert ask(env) == "NVML: NVML Shared Library Not Found\n"


def test_the_speed_of_a_card_is_its_bus_at_the_highest_clock(tmp_path: Path) -> None:
    """As its maker gives it: 504 GB/s for this one."""
    told = StandInCard(bus_bits=192, clock_mhz=10501)
    with StandInNvml(tmp_path, told, StandInCard(bus_bits=192)).loaded():
        nvml = Nvml()

        assert nvml.read("GPU-0").bandwidth == 504_048_000_000
        assert nvml.read("GPU-1").bandwidth is None
