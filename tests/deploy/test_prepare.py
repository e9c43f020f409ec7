"""What the set-up says at its end, and before it begins."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import prepare
import pytest
from llama_build import Flavour
from prepare import ROOT, Target
from steps import Failure

from tests.support.guard import HANG_S
from tests.support.nvml import StandInNvml


@pytest.mark.parametrize(
    ("gpu", "cmake_args", "remembered", "said"),
    [
        ("none", "", True, "ready for the CPU and RPC devices (GPU=cuda, GPU=vulkan, GPU=rocm "),
        ("cuda", "", True, "ready for GPU=cuda (as the last time): "),
        ("cuda", "", False, "ready for GPU=cuda: "),
        ("vulkan", "-DX=1", False, "ready for GPU=vulkan, CMAKE_ARGS=-DX=1: "),
    ],
)
def test_it_says_for_what_it_is_ready(
    gpu: str, cmake_args: str, remembered: bool, said: str
) -> None:
    assert prepare.ready(Flavour(gpu, cmake_args), remembered=remembered).startswith(said)


def test_an_installed_copy_says_what_to_do_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", "/usr/bin")
    program = tmp_path / "bin" / "moe-proxy"
    target, flavour = Target(tmp_path, editable=False), Flavour("cuda", "")

    said = prepare.installed(target, flavour, home=Path("/home/me"))
    own = prepare.installed(target, flavour, home=tmp_path.parent)
    monkeypatch.setenv("PATH", f"/usr/bin:{program.parent}")
    named = prepare.installed(target, flavour)

    assert f"installed for GPU=cuda: {program}" in said
    assert f"{program} check" in said
    assert f"sudo {program} install-service --socket" in said
    assert f"export PATH={program.parent}:$PATH" in said
    assert f" {program} install-service --user --socket" in own
    assert "PATH" not in named


@pytest.mark.parametrize(
    ("gpu", "said"),
    [
        ("vulkan", "Vulkan's headers are too old: 1.3.239, needed is 1.3.272"),
        ("cuda", "driver 550.54.14 is too old for the package index's compiler"),
    ],
)
def test_what_cannot_be_built_ends_before_anything_is_made_or_fetched(
    tmp_path: Path, gpu: str, said: str
) -> None:
    clone, target = tmp_path / "clone", tmp_path / "target"
    shutil.copytree(ROOT / "deploy" / "build", clone / "deploy" / "build")
    for name in ("pyproject.toml", "constraints.txt", "setup.py"):
        shutil.copy(ROOT / name, clone)
    header = tmp_path / "sdk" / "include" / "vulkan" / "vulkan.h"
    header.parent.mkdir(parents=True)
    header.write_text(
        "#define VK_HEADER_VERSION 239\n"
        "#define VK_HEADER_VERSION_COMPLETE VK_MAKE_API_VERSION(0, 1, 3, VK_HEADER_VERSION)\n"
    )
    nvml = StandInNvml(tmp_path)
    nvml.driver(version="550.54.14")
    here = {
        "VULKAN_SDK": str(tmp_path / "sdk"),
        "CUDACXX": "packages",
        "CMAKE_ARGS": "",
        "PIP_CACHE_DIR": str(tmp_path / "cache"),
    }

    ended = subprocess.run(
        [sys.executable, clone / "deploy/build/prepare.py", "--gpu", gpu, "--install", target],
        env=os.environ | nvml.env() | here,
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )

    assert ended.returncode == 1
    assert said in ended.stderr
    assert not target.exists()
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_machine_without_wheels_of_ray_is_made_ready_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], log: Path) -> None:
        asked.append(command)
        raise Failure("no wheels")

    monkeypatch.setattr(prepare, "run", run)

    prepare.install_ray(["pip", "install"], tmp_path / "log")

    ((*pip, ray, _),) = asked
    assert pip == ["pip", "install", "--only-binary", ":all:"]
    assert ray == "ray[serve]>=2.60,<3"
    assert "tests of a fleet will be skipped" in "".join(capsys.readouterr())
