from pathlib import Path

import pytest
import system_tools
from steps import Failure
from system_tools import TOOLS, Tool


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{text}'\n")
    path.chmod(0o755)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing on it but what a test puts there."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for tool in TOOLS.values():
        if tool.variable:
            monkeypatch.delenv(tool.variable, raising=False)
    return tmp_path


def test_everything_missing_is_named_at_once_and_one_line_installs_it(path: Path) -> None:
    with pytest.raises(Failure) as failure:
        system_tools.check(["C++ compiler", "CMake", "make or ninja"], "Debian/Ubuntu")

    what, how = str(failure.value).splitlines()
    for text in ("C++ compiler was not found", "CMake was not found", "make or ninja was"):
        assert text in what
    assert how == "Install it: sudo apt install build-essential cmake ninja-build"


def test_where_the_system_is_not_known_each_has_its_line(path: Path) -> None:
    with pytest.raises(Failure) as failure:
        system_tools.check(["C++ compiler", "CMake"], "elsewhere")

    lines = str(failure.value).splitlines()
    assert "  Fedora: sudo dnf install gcc-c++ cmake" in lines
    assert "  Arch: sudo pacman -S base-devel cmake" in lines
    assert "  macOS: xcode-select --install" in lines


@pytest.mark.parametrize(
    ("text", "system"),
    [
        ("ID=debian\n", "Debian/Ubuntu"),
        ('NAME="Linux Mint"\nID=linuxmint\nID_LIKE="ubuntu debian"\n', "Debian/Ubuntu"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "Fedora"),
        ("ID=arch\n", "Arch"),
        ('ID="opensuse-tumbleweed"\nID_LIKE="opensuse suse"\n', "openSUSE"),
        ("ID=nixos\nVERSION_ID=debian\n", None),
    ],
)
def test_which_system_this_is(tmp_path: Path, text: str, system: str | None) -> None:
    (tmp_path / "os-release").write_text(text)

    assert system_tools.this_system(tmp_path / "os-release") == system
    assert system_tools.this_system(tmp_path / "nothing") is None


def test_every_tool_has_its_package_on_every_linux() -> None:
    systems = set(system_tools.INSTALLERS) - {"Homebrew"}

    assert {name: systems - tool.packages.keys() for name, tool in TOOLS.items()} == {
        name: set() for name in TOOLS
    }


def test_a_tool_that_is_too_old_is_said_to_be(path: Path) -> None:
    program(path, "cmake", "cmake version 3.18.4")

    with pytest.raises(Failure, match=r"CMake is too old: 3\.18 at .*/cmake, needed is 3\.21"):
        system_tools.check(["CMake"])


def test_tools_that_are_there_pass(path: Path) -> None:
    program(path, "cmake", "cmake version 3.25.1")
    program(path, "make", "GNU Make 4.3")
    program(path, "g++", "g++ 12")

    system_tools.check(["CMake", "make or ninja", "C++ compiler"])


def test_the_environment_names_a_compiler_of_its_own(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(path, "my-c++", "")
    monkeypatch.setenv("CXX", "my-c++ -m64")

    assert system_tools.find(TOOLS["C++ compiler"]) == str(path / "my-c++")


def test_a_file_counts_as_a_tool(path: Path) -> None:
    header = path / "Python.h"
    header.touch()

    assert system_tools.find(Tool((str(header),), {})) == str(header)


def test_rocm_keeps_what_the_user_has_set(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(path, "hipconfig", "/opt/rocm")
    monkeypatch.setenv("HIP_PATH", "/mine")
    monkeypatch.delenv("HIPCXX", raising=False)

    assert system_tools.rocm_environment() == {"HIPCXX": "/opt/rocm/clang", "HIP_PATH": "/mine"}


def test_a_variable_that_names_no_program_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one in its place would be what the user did not want."""
    monkeypatch.setenv("CUDACXX", "/nowhere/nvcc")

    with pytest.raises(Failure, match="CUDACXX names /nowhere/nvcc, which is no program here"):
        system_tools.find(system_tools.TOOLS["CUDA compiler (nvcc)"])


def test_a_rocm_that_is_too_old_is_told_before_the_build(path: Path) -> None:
    program(path, "hipconfig", "5.2.21153-0")

    with pytest.raises(Failure, match=r"too old: 5\.2 at .*, needed is 6\.1\.\n.*AMD's repository"):
        system_tools.check(("ROCm (hipconfig)",), "Debian/Ubuntu")
