"""What the set-up says at its end."""

from pathlib import Path

import prepare
import pytest
from llama_build import Flavour
from prepare import Target


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
