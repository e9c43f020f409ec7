"""Which CUDA compiler for which driver and card, and what is said where there is none."""

import re
from pathlib import Path

import cuda_toolkit
import pytest
from cuda_toolkit import Choice, Nvcc, choose
from nvidia_driver import Card, Driver
from steps import Failure

NONE = "NVIDIA's driver was not found"
RTX3060, RTX4090, PASCAL = Card("RTX 3060", 86), Card("RTX 4090", 89), Card("GTX 1080", 61)
BLACKWELL = Card("RTX 5090", 120)
NVCC12 = Nvcc("/usr/bin/nvcc", (12, 4), frozenset({52, 61, 75, 86, 89, 90}))
NVCC13 = Nvcc("/usr/bin/nvcc", (13, 0))
ONE_CARD = "-DCMAKE_CUDA_ARCHITECTURES="


def driver(version: str = "580.65.06", *cards: Card) -> Driver:
    return Driver(version, cards or (RTX3060,))


def refusal(nvcc: Nvcc | None, told: Driver | str, system: str = "Debian/Ubuntu") -> str:
    with pytest.raises(Failure) as failure:
        choose(nvcc, told, "", system)
    return str(failure.value)


def test_without_nvcc_a_driver_from_580_on_gets_the_index_s_compiler() -> None:
    choice = choose(None, driver("580.65.06"), "")

    assert choice == Choice(None, (f"{ONE_CARD}86-real", "-DGGML_CUDA_NO_VMM=ON"))
    assert choice.packages.keys() >= {"nvidia-cuda-runtime", "nvidia-cublas"}
    assert all(version.startswith("13.") for version in choice.packages.values())


def test_the_system_s_nvcc_is_taken_where_there_is_one_and_nothing_is_fetched() -> None:
    choice = choose(NVCC12, driver("550.54.14"), "")

    assert choice == Choice(NVCC12, (f"{ONE_CARD}86-real",))
    assert choice.packages == {}


@pytest.mark.parametrize("version", ["575.64", "550.54.14", "470.256.02"])
def test_a_driver_too_old_for_the_index_s_is_told_what_else_to_do(version: str) -> None:
    said = refusal(None, driver(version))

    assert f"driver {version} is too old for the package index's compiler (CUDA 13)" in said
    assert "needs 580. Update the driver" in said
    assert f"older toolkit (CUDA {12 if version > '525' else 11})" in said
    assert "CUDACXX=/path/to/nvcc make setup GPU=cuda" in said
    assert "sudo apt install nvidia-cuda-toolkit" in said


def test_a_driver_too_old_for_the_system_s_nvcc_is_noticed_before_the_build() -> None:
    said = refusal(NVCC13, driver("550.54.14"))

    assert "too old for CUDA 13.0 at /usr/bin/nvcc, which needs 580" in said


def test_a_card_before_turing_needs_an_older_cuda_whatever_the_driver() -> None:
    said = refusal(None, driver("580.65.06", PASCAL))

    assert "CUDA 13) is not for this card: GTX 1080 (6.1)" in said
    assert "older toolkit (CUDA 12)" in said
    assert choose(NVCC12, driver("580.65.06", PASCAL), "").flags == (f"{ONE_CARD}61-real",)


@pytest.mark.parametrize(
    ("system", "line"),
    [
        ("Debian/Ubuntu", "sudo apt install nvidia-cuda-toolkit"),
        ("Fedora", "sudo dnf install cuda-toolkit"),
        ("Arch", "sudo pacman -S cuda"),
        ("openSUSE", "sudo zypper install cuda-toolkit"),
    ],
)
def test_a_toolkit_is_named_as_this_system_s_package(system: str, line: str) -> None:
    assert line in refusal(None, driver("550.54.14"), system)


def test_nobody_is_told_of_a_toolkit_that_would_not_fit_either() -> None:
    kepler = Card("GTX 680", 30)

    assert "older toolkit" not in refusal(NVCC12, driver("580.65.06", kepler))
    assert "older toolkit" not in refusal(None, driver("390.157"))


def test_a_card_newer_than_the_system_s_nvcc_is_noticed_before_the_build() -> None:
    said = refusal(NVCC12, driver("580.65.06", BLACKWELL))

    assert "CUDA 12.4 at /usr/bin/nvcc is not for this card: RTX 5090 (12.0)" in said
    assert "CUDACXX=packages" in said


@pytest.mark.parametrize(
    ("cards", "flag", "said"),
    [
        ((RTX3060, RTX3060), "86-real", "for RTX 3060 (8.6), with"),
        ((RTX4090, RTX3060), "86-real;89-real", "for RTX 4090 (8.9), RTX 3060 (8.6), with"),
        ((RTX4090, PASCAL), "89-real", "for RTX 4090 (8.9), not for GTX 1080, which it does not"),
    ],
)
def test_it_is_built_for_the_cards_in_the_machine(
    cards: tuple[Card, ...], flag: str, said: str
) -> None:
    told = driver("580.1", *cards)
    choice = choose(None, told, "")

    assert choice.flags[0] == ONE_CARD + flag
    assert said in cuda_toolkit.told(choice, told)


@pytest.mark.parametrize("named", ["-DCMAKE_CUDA_ARCHITECTURES=90", f"{ONE_CARD}'86;89'"])
def test_cards_that_the_user_names_are_the_user_s_affair(named: str) -> None:
    assert choose(NVCC12, driver(), named).flags == ()
    assert choose(None, driver(), named).flags == ("-DGGML_CUDA_NO_VMM=ON",)
    assert choose(None, NONE, named).flags == ("-DGGML_CUDA_NO_VMM=ON",)
    assert "named in CMAKE_ARGS" in cuda_toolkit.told(choose(None, driver(), named), driver())


@pytest.mark.parametrize("told", [NONE, Driver("580.65.06")])
def test_where_nobody_knows_a_card_there_is_no_guess(told: Driver | str) -> None:
    said = refusal(None, told)

    assert "there is no CUDA compiler (nvcc) here" in said
    assert "NVIDIA's driver" in said
    assert "CMAKE_ARGS=-DCMAKE_CUDA_ARCHITECTURES=86 make setup GPU=cuda" in said
    # With the system's nvcc, CMake says whether it finds one.
    assert choose(NVCC13, told, "").flags == ()


def test_other_cards_and_other_packages_are_another_build() -> None:
    keys = {
        tuple(choose(nvcc, driver("580.1", card), "").key())
        for nvcc in (None, NVCC12)
        for card in (RTX3060, RTX4090)
    }

    assert len(keys) == 4
    # Nothing that differs between two machines alike.
    assert not any("/" in part for key in keys for part in key)


def nvcc(folder: Path, text: str) -> str:
    path = folder / "nvcc"
    path.write_text(f"#!/bin/sh\necho '{text}'\n")
    path.chmod(0o755)
    return str(path)


def test_a_compiler_says_its_version_and_what_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = nvcc(tmp_path, "Copyright (c) 2005-2025; release 12.4, V12.4.131 sm_75 sm_86")

    monkeypatch.setenv("CUDACXX", path)
    assert Nvcc.found() == Nvcc(path, (12, 4), frozenset({75, 86}))

    monkeypatch.setenv("CUDACXX", cuda_toolkit.CHOOSE_INDEX)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Nvcc.found() is None


def test_an_installed_toolkit_gets_the_names_that_cmake_looks_for(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    for name in ("libcudart.so.13", "libcublas.so.13", "libcudadevrt.a"):
        (tmp_path / "lib" / name).write_text(name)

    cuda_toolkit.lay_out(tmp_path)
    cuda_toolkit.lay_out(tmp_path)  # after an interrupted try

    assert (tmp_path / "lib64" / "libcudart.so").read_text() == "libcudart.so.13"
    assert (tmp_path / "lib" / "libcublas.so").is_symlink()
    assert not (tmp_path / "lib" / "libcudadevrt.so").exists()


@pytest.mark.parametrize(
    ("macros", "refused"),
    [("__GNUC__ 16", False), ("__GNUC__ 17", True), ("__clang__ 1", False)],
)
def test_a_compiler_too_new_for_cuda_is_noticed_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, macros: str, refused: bool
) -> None:
    path = tmp_path / "c++"
    path.write_text(f"#!/bin/sh\necho '#define {macros}'\n")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    monkeypatch.delenv("CUDAHOSTCXX", raising=False)

    if not refused:
        cuda_toolkit.check_host_compiler()
        return
    with pytest.raises(Failure, match=re.escape("gcc 17; the package index's")) as failure:
        cuda_toolkit.check_host_compiler()
    assert "CUDAHOSTCXX=g++-16 make setup GPU=cuda" in str(failure.value)
