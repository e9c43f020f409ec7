"""Which card is meant, by the policy's word and by the bus."""

import pytest

from proxy.engine.types import Device
from proxy.memory.readings import Card
from proxy.memory.sources import Cards, Source, choose, default_cards

RTX = Card("GPU-5a", "RTX", "0000:c1:00.0", integrated=False)
GTX = Card("GPU-6b", "GTX", "0000:02:00.0", integrated=False)
JETSON = Card("GPU-7c", "Orin", "0000:05:00.0", integrated=True, readable=False)
RADEON = Card("card1", "Radeon", "0000:03:00.0", integrated=False)
CARDS = Cards(nvml=(GTX, RTX, JETSON), sysfs=(RADEON,))


def device(name: str = "CUDA0", bus_id: str | None = "0000:c1:00.0", kind: str = "gpu") -> Device:
    return Device(name, "", kind, None, None, bus_id)  # type: ignore[arg-type]


RPC = device("RPC0", None)


def test_the_bus_id_decides_and_never_the_order() -> None:
    assert choose(device(), None, CARDS) == Source(
        "nvml", "GPU-5a", "0000:c1:00.0", integrated=False
    )


def test_a_card_of_another_driver_is_found_too() -> None:
    vulkan = device("Vulkan0", "0000:03:00.0")

    assert str(choose(vulkan, None, CARDS)) == "sysfs:card1"


def test_nvml_comes_before_sysfs() -> None:
    both = Cards(nvml=(RTX,), sysfs=(Card("card0", "RTX", "0000:c1:00.0"),))

    assert str(choose(device(), None, both)) == "nvml:GPU-5a"


@pytest.mark.parametrize(
    "unmatched",
    [
        RPC,
        device(bus_id="0000:99:00.0"),
        device(bus_id="0000:05:00.0"),  # the driver knows the card, but not its memory
    ],
)
def test_all_others_are_as_the_worker_reports_them(unmatched: Device) -> None:
    source = choose(unmatched, None, CARDS)

    assert (source.kind, source.card, source.problem) == ("ggml", None, None)


@pytest.mark.parametrize(
    ("setting", "source"),
    [
        ("nvml:GPU-6b", "nvml:GPU-6b"),
        ("nvml:gpu-6B", "nvml:GPU-6b"),
        ("nvml:00000000:02:00.0", "nvml:GPU-6b"),
        ("nvml:02:00.0", "nvml:GPU-6b"),
        ("nvml:MIG-5a", "nvml:MIG-5a"),
        ("sysfs:card1", "sysfs:card1"),
        ("sysfs:0000:03:00.0", "sysfs:card1"),
        ("sysfs", "sysfs:card1"),
        ("ggml", "ggml"),
    ],
)
def test_a_policy_may_name_any_card_for_a_device_without_one(setting: str, source: str) -> None:
    chosen = choose(RPC, setting, CARDS)

    assert (str(chosen), chosen.problem) == (source, None)


def test_a_policy_may_name_the_driver_only() -> None:
    assert str(choose(device(), "nvml", CARDS)) == "nvml:GPU-5a"
    assert choose(device(), "ggml", CARDS).kind == "ggml"


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("nvml:GPU-9", "nvml: no card GPU-9; there are: GPU-6b, GPU-5a, GPU-7c"),
        ("sysfs:card7", "sysfs: no card card7; there are: card1"),
        (
            "nvml",
            "nvml: it is not known which card this device is; there are: GPU-6b, GPU-5a, GPU-7c",
        ),
    ],
)
def test_a_wrong_name_is_said_and_nothing_else_is_read_instead(setting: str, problem: str) -> None:
    chosen = choose(RPC, setting, CARDS)

    assert (chosen.card, chosen.problem) == (None, problem)


def test_llama_cpp_knows_an_integrated_gpu_best() -> None:
    apu = device("Vulkan0", "0000:03:00.0", kind="igpu")

    assert choose(apu, None, CARDS).integrated is True


def test_the_cards_that_will_be_used_before_anybody_has_said_so() -> None:
    apu = Card("card0", "APU", "0000:06:00.0", integrated=True)

    assert [(d.name, str(s)) for d, s in default_cards(Cards((RTX, JETSON), (RADEON, apu)))] == [
        ("GPU-5a", "nvml:GPU-5a"),
        ("card1", "sysfs:card1"),
    ]
    assert [d.name for d, _ in default_cards(Cards((), (apu,)))] == ["card0"]
    assert default_cards(Cards((JETSON,), ())) == []
