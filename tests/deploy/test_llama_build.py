import sys
import tarfile
from pathlib import Path

import llama_build
import pytest
import system_tools
from cuda_toolkit import Choice, Nvcc
from llama_build import Build, Flavour
from steps import Failure

INCLUDE_DIR = Path(llama_build.__file__).parent


def build(tmp_path: Path, gpu: str = "none", cmake_args: str = "") -> Build:
    return Build(Flavour(gpu, cmake_args), cache=tmp_path, include_dir=INCLUDE_DIR)


def fake_programs(venv: Path, script: str) -> None:
    folder = venv / "lib" / "python3.11" / "site-packages" / "bin"
    folder.mkdir(parents=True)
    for name in llama_build.PROGRAMS:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)


def pack_source(build: Build, setup: str) -> None:
    """A source archive like the real one, but for a package that is built in no time."""
    folder = build.sources / "package-1.0"
    folder.mkdir(parents=True)
    (folder / "setup.py").write_text(setup)
    with tarfile.open(build.sources / llama_build.ARCHIVE, "w:gz") as archive:
        archive.add(folder, folder.name)


def test_the_source_becomes_a_wheel_and_nothing_else_is_kept(tmp_path: Path) -> None:
    one = build(tmp_path, cmake_args="-DMINE=1")
    pack_source(
        one,
        "import os, pathlib, setuptools\n"
        f"pathlib.Path({str(tmp_path / 'seen')!r}).write_text(os.environ['CMAKE_ARGS'])\n"
        "setuptools.setup(name='package', version='1.0')\n",
    )

    wheel = one.make(Path(sys.executable), tmp_path / "log")

    assert wheel == one.wheel()
    assert sorted(path.name for path in one.folder.iterdir()) == sorted(
        [wheel.name, llama_build.INCLUDE]
    )
    seen = (tmp_path / "seen").read_text()
    assert seen.startswith("-DLLAVA_BUILD=OFF ")
    assert f"-DMINE=1 -DCMAKE_PROJECT_llama_cpp_INCLUDE={one.folder / llama_build.INCLUDE}" in seen


def test_a_build_that_failed_leaves_its_source_for_the_next_try(tmp_path: Path) -> None:
    one = build(tmp_path)
    pack_source(one, "raise SystemExit('no compiler today')")

    with pytest.raises(Failure, match="no compiler today"):
        one.make(Path(sys.executable), tmp_path / "log")

    assert one.wheel() is None
    assert (one.folder / "source" / "setup.py").exists()


def test_what_is_built_otherwise_is_kept_apart(tmp_path: Path) -> None:
    folders = {
        build(tmp_path).folder,
        build(tmp_path, "cuda").folder,
        build(tmp_path, "vulkan").folder,
        build(tmp_path, "cuda", "-DCMAKE_CUDA_ARCHITECTURES=90").folder,
    }

    assert len(folders) == 4


def test_cuda_of_the_index_and_other_cards_are_kept_apart(tmp_path: Path) -> None:
    flavour = Flavour("cuda", "")
    choices = [
        Choice(nvcc, (f"-DCMAKE_CUDA_ARCHITECTURES={card}-real",))
        for nvcc in (None, Nvcc("/usr/bin/nvcc", (13, 0)))
        for card in (86, 89)
    ]
    folders = {
        Build(flavour, cache=tmp_path, include_dir=INCLUDE_DIR, cuda=choice).folder
        for choice in choices
    }

    assert len(folders) == 4


def test_the_key_is_the_same_in_another_clone_but_not_with_another_include_file(
    tmp_path: Path,
) -> None:
    same, other = tmp_path / "same", tmp_path / "other"
    text = (INCLUDE_DIR / llama_build.INCLUDE).read_text()
    for folder, content in ((same, text), (other, text + "# changed\n")):
        folder.mkdir()
        (folder / llama_build.INCLUDE).write_text(content)
    flavour = Flavour("none", "")

    keys = [
        Build(flavour, cache=tmp_path, include_dir=folder).key()
        for folder in (INCLUDE_DIR, same, other)
    ]

    assert keys[0] == keys[1] != keys[2]


def test_a_choice_is_remembered_until_another_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    previous = {"gpu": "cuda", "cmake_args": "-DGGML_CUDA_FA=OFF"}
    for name in ("CMAKE_ARGS", "CUDACXX"):
        monkeypatch.delenv(name, raising=False)

    assert Flavour.chosen("", {}) == Flavour("none", "")
    assert Flavour.chosen("", previous) == Flavour("cuda", "-DGGML_CUDA_FA=OFF")
    monkeypatch.setenv("CMAKE_ARGS", "")
    assert Flavour.chosen("vulkan", previous) == Flavour("vulkan", "")
    monkeypatch.setenv("CUDACXX", "packages")
    once = Flavour.chosen("cuda", {})
    monkeypatch.delenv("CUDACXX")
    assert Flavour.chosen("", once.record()) == once == Flavour("cuda", "", "packages")


def test_an_unknown_gpu_is_refused_with_what_there_is() -> None:
    with pytest.raises(Failure, match="GPU=metal is not known; use one of none, cuda"):
        Flavour.chosen("metal", {})


def test_the_users_settings_come_last_and_may_hold_spaces() -> None:
    flags = Flavour("cuda", "-DGGML_RPC=OFF '-DCMAKE_CXX_FLAGS=-O2 -g'").flags()

    assert flags[-2:] == ["-DGGML_RPC=OFF", "-DCMAKE_CXX_FLAGS=-O2 -g"]
    assert flags.index("-DGGML_RPC=ON") < flags.index("-DGGML_CUDA=ON") < len(flags) - 2


def test_settings_of_cmake_may_add_another_kind_of_gpu() -> None:
    both = Flavour("vulkan", "-DGGML_CUDA:BOOL=on")

    assert both.builds_for("vulkan")
    assert both.builds_for("cuda")
    assert not both.builds_for("rocm")
    assert not Flavour("cuda", "-DGGML_CUDA=OFF").builds_for("cuda")


def test_cuda_of_the_package_index_is_found_by_cmake_and_beside_the_libraries(
    tmp_path: Path,
) -> None:
    flavour = Flavour("cuda", "-DMINE=1")
    choice = Choice(None, ("-DCMAKE_CUDA_ARCHITECTURES=86-real",))
    one = Build(flavour, cache=tmp_path, include_dir=INCLUDE_DIR, cuda=choice)
    one.folder.mkdir(parents=True)

    env = one.environment(tmp_path / "toolkit")

    root = tmp_path / "toolkit" / "nvidia" / "cu13"
    assert env["CUDACXX"] == f"{root}/bin/nvcc"
    settings = system_tools.cmake_settings(env["CMAKE_ARGS"])
    assert settings["CUDAToolkit_ROOT"] == str(root)
    assert settings["CMAKE_CUDA_COMPILER"] == env["CUDACXX"]
    assert settings["CMAKE_CUDA_ARCHITECTURES"] == "86-real"
    assert env["CMAKE_ARGS"].index("CUDAToolkit_ROOT") < env["CMAKE_ARGS"].index("-DMINE=1")
    assert "$ORIGIN/../nvidia/cu13/lib" in Path(one.folder, llama_build.INCLUDE).read_text()


@pytest.mark.parametrize("nvcc", [None, Nvcc("/usr/bin/nvcc", (13, 0))])
def test_what_cuda_needs_when_it_runs_is_installed_beside_it(
    tmp_path: Path, nvcc: Nvcc | None
) -> None:
    choice = Choice(nvcc)
    one = Build(Flavour("cuda", ""), cache=tmp_path, include_dir=INCLUDE_DIR, cuda=choice)
    one.folder.mkdir(parents=True)
    (one.folder / "package-1.0-py3-none-any.whl").touch()
    venv = tmp_path / "venv"
    fake_programs(venv, "exit 0")
    python = venv / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    python.chmod(0o755)

    one.install(python, tmp_path / "log", fresh=False)

    calls = (tmp_path / "calls").read_text()
    assert ("nvidia-cuda-runtime==13." in calls) == (nvcc is None)
    assert ("nvidia-cublas==13." in calls) == (nvcc is None)
    assert "nvidia-cuda-nvcc" not in calls


def test_cuda_of_the_system_is_used_as_it_is(tmp_path: Path) -> None:
    choice = Choice(Nvcc("/usr/bin/nvcc", (13, 0)))
    flavour = Flavour("cuda", "")
    one = Build(flavour, cache=tmp_path, include_dir=INCLUDE_DIR, cuda=choice)
    one.folder.mkdir(parents=True)

    env = one.environment(tmp_path / "toolkit")

    assert env["CUDACXX"] == "/usr/bin/nvcc"
    assert "CUDAToolkit_ROOT" not in env["CMAKE_ARGS"]
    assert "nvidia" not in Path(one.folder, llama_build.INCLUDE).read_text()
    assert one.folder == build(tmp_path, "cuda").folder


def test_an_environment_without_the_programs_is_not_taken_for_ours(tmp_path: Path) -> None:
    assert not llama_build.installed(tmp_path)
    assert llama_build.starts(tmp_path) == "llama-server is missing"


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("exit 0", None),
        ("echo usage; exit 1", None),
        ("echo 'libllama.so: not found' >&2; exit 127", "libllama.so: not found"),
        ("kill -ILL $$", "llama-server does not start"),
    ],
)
def test_a_build_that_cannot_run_here_is_noticed(
    tmp_path: Path, script: str, problem: str | None
) -> None:
    fake_programs(tmp_path, script)

    found = llama_build.starts(tmp_path)

    assert llama_build.installed(tmp_path)
    assert (found is None) if problem is None else (problem in (found or ""))


def test_an_archive_is_unpacked_over_the_remains_of_an_interrupted_try(tmp_path: Path) -> None:
    inside = tmp_path / "package-1.0"
    inside.mkdir()
    (inside / "file").write_text("content")
    with tarfile.open(tmp_path / "archive.tar.gz", "w:gz") as archive:
        archive.add(inside, "package-1.0")
    (tmp_path / "unpacking").mkdir()
    (tmp_path / "unpacking" / "half").touch()

    llama_build.unpack(tmp_path / "archive.tar.gz", tmp_path / "source")

    assert [path.name for path in (tmp_path / "source").iterdir()] == ["file"]


def test_parallel_level_is_the_users_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CMAKE_BUILD_PARALLEL_LEVEL", raising=False)
    assert int(llama_build.parallel_level()) >= 1

    monkeypatch.setenv("CMAKE_BUILD_PARALLEL_LEVEL", "3")
    assert llama_build.parallel_level() == "3"
