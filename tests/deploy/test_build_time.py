"""About how long a build takes, by what it is for and how fast the machine is."""

import build_time
import pytest
from build_time import PROBE_S, minutes

CARD = "-DCMAKE_CUDA_ARCHITECTURES="


@pytest.mark.parametrize(
    ("flags", "cards"),
    [
        ([], 1),
        ([f"{CARD}86-real"], 1),
        ([f"{CARD}86-real;89-real"], 2),
        (["-DGPU_TARGETS=gfx1100;gfx1030"], 2),
        (["-DGGML_NATIVE=OFF"], build_time.OWN_LIST),
    ],
)
def test_for_how_many_kinds_of_cards(flags: list[str], cards: int) -> None:
    assert build_time.cards(flags) == cards


def test_more_cores_less_time_more_cards_more() -> None:
    one = minutes("cuda", [f"{CARD}86-real"], 4, PROBE_S)

    assert minutes("cuda", [f"{CARD}86-real"], 2, PROBE_S) == 2 * one
    assert minutes("cuda", [f"{CARD}86-real"], 4, 2 * PROBE_S) == 2 * one
    assert minutes("cuda", [f"{CARD}86-real;89-real"], 4, PROBE_S) > 1.5 * one
    assert minutes("none", [], 64, PROBE_S) == 1


def test_it_is_told_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_time, "probe", lambda: PROBE_S)
    assert build_time.told("none", [], 2) == "about 5 min here, with 2 compilers at once"
    assert build_time.told("cuda", ["-DGGML_NATIVE=OFF"], 1) == (
        "about 6.9 h here, with 1 compiler at once"
    )


def test_a_probe_takes_time_and_a_broken_compiler_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < build_time.probe()

    monkeypatch.setenv("CXX", "false")
    assert build_time.probe() == PROBE_S
