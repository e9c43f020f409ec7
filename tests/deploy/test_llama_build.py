import sys
import tarfile
from pathlib import Path

import llama_build
import pytest
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
    monkeypatch.delenv("CMAKE_ARGS", raising=False)

    assert Flavour.chosen("", {}) == Flavour("none", "")
    assert Flavour.chosen("", previous) == Flavour("cuda", "-DGGML_CUDA_FA=OFF")
    monkeypatch.setenv("CMAKE_ARGS", "")
    assert Flavour.chosen("vulkan", previous) == Flavour("vulkan", "")


def test_an_unknown_gpu_is_refused_with_what_there_is() -> None:
    with pytest.raises(Failure, match="GPU=metal is not known; use one of none, cuda"):
        Flavour.chosen("metal", {})


def test_the_users_settings_come_last_and_may_hold_spaces() -> None:
    flags = Flavour("cuda", "-DGGML_RPC=OFF '-DCMAKE_CXX_FLAGS=-O2 -g'").flags()

    assert flags[-2:] == ["-DGGML_RPC=OFF", "-DCMAKE_CXX_FLAGS=-O2 -g"]
    assert flags.index("-DGGML_RPC=ON") < flags.index("-DGGML_CUDA=ON") < len(flags) - 2


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
