"""What good policies name that is not there, and what else is better known."""

import os
from pathlib import Path

from proxy.engine.installed import LIBRARIES
from proxy.policy.load import load
from proxy.policy.warnings import warnings_of
from tests.support.cache_build import cache_build


def told(path: Path, **variables: str) -> list[str]:
    env = {"HOME": str(path.parent), "PATH": "/bin", **variables}
    return [str(warning) for warning in warnings_of(load(path, env), env)]


def test_what_is_named_and_not_there(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    file = tmp_path / "p.toml"
    file.write_text(
        """[server]
api_keys_file = "keys.txt"
[catalog]
dirs = [
  "there",
  "nowhere",
]
state = "made-when-needed"
[models.a]
path = "there"
[models.b]
path = "b.gguf"
"""
    )

    assert told(file) == [
        f"{file}:2: server.api_keys_file: no such file or directory: {tmp_path}/keys.txt",
        f"{file}:6: catalog.dirs[1]: no such file or directory: {tmp_path}/nowhere",
        f"{file}:12: models.b.path: no such file or directory: {tmp_path}/b.gguf",
    ]


def test_engines_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "server").write_text("#!/bin/sh\n")
    (tmp_path / "server").chmod(0o755)
    file = tmp_path / "p.toml"
    file.write_text(
        """[engine]
libdir = "lib"
backends = ["there.so", "nowhere.so"]
[models.a]
engine = "command"
command = ["no-such-server", "--port", "{port}"]
stop_command = ["sh", "-c", "exit"]
[models.b]
engine = "command"
command = [
  "server", "{port}",
]
stop_command = ["/nowhere/stop"]
"""
    )
    (tmp_path / "there.so").write_bytes(b"\x7fELF...")

    assert told(file, PATH=f"/bin:{tmp_path}") == [
        f"{file}:2: engine.libdir: no such file or directory: {tmp_path}/lib",
        f"{file}:3: engine.backends[1]: no such file or directory: {tmp_path}/nowhere.so",
        f"{file}:6: models.a.command[0]: there is no program no-such-server",
        f"{file}:13: models.b.stop_command[0]: there is no program /nowhere/stop",
    ]


def test_backends_that_are_no_libraries(tmp_path: Path) -> None:
    (tmp_path / "text.so").write_text("hello")
    (tmp_path / "empty.so").touch()
    (tmp_path / "folder.so").mkdir()
    os.mkfifo(tmp_path / "pipe.so")
    file = tmp_path / "p.toml"
    file.write_text('[engine]\nbackends = ["text.so", "empty.so", "folder.so", "pipe.so"]\n')

    place = f"{file}:2: engine.backends"
    assert told(file) == [
        f"{place}[0]: no hosted model loads: {tmp_path}/text.so is no library",
        f"{place}[1]: no hosted model loads: {tmp_path}/empty.so is no library",
        f"{place}[2]: no hosted model loads: {tmp_path}/folder.so is no regular file",
        f"{place}[3]: no hosted model loads: {tmp_path}/pipe.so is no regular file",
    ]


def test_a_llama_cpp_without_its_server_as_a_library(tmp_path: Path) -> None:
    libdir = tmp_path / "lib"
    libdir.mkdir()
    file = tmp_path / "p.toml"
    file.write_text('[engine]\nlibdir = "lib"\n')
    why = f"no hosted model loads: no libllama-server-impl.so in {libdir}"
    assert told(file) == [f"{file}:2: engine.libdir: {why}"]

    for name in LIBRARIES:
        (libdir / f"lib{name}.so").touch()
    assert told(file) == []

    (libdir / "libggml-cpu.so").rename(libdir / "libggml-cpu-haswell.so")
    assert told(file) == []

    (libdir / "libllama.so").unlink()
    (libdir / "libllama.so").symlink_to("nowhere")
    assert told(file) == [
        f"{file}:2: engine.libdir: no hosted model loads: no libllama.so in {libdir}"
    ]


def test_a_folder_without_policies(tmp_path: Path) -> None:
    (tmp_path / ".hidden.toml").touch()
    empty = "there is no *.toml in this folder, so the built-in defaults are used"
    assert told(tmp_path) == [f"{tmp_path}: {empty}"]

    (tmp_path / "p.toml").touch()
    assert told(tmp_path) == []


def test_a_file_that_is_empty_is_meant_so(tmp_path: Path) -> None:
    (tmp_path / "p.toml").touch()
    assert told(tmp_path / "p.toml") == []


def test_what_every_llama_server_would_read(tmp_path: Path) -> None:
    config = tmp_path / ".config" / "llama.cpp" / "config.ini"
    config.parent.mkdir(parents=True)
    config.write_text("threads = 4\nsleep-idle-seconds = 60\n")
    (tmp_path / "p.toml").touch()

    assert told(tmp_path / "p.toml") == [
        f"{config}: sleep-idle-seconds: it counts for every hosted model: it frees the model under "
        "experts that move; take it out"
    ]


def test_variables_that_workers_do_not_see(tmp_path: Path) -> None:
    """Once each, by their names alone."""
    (tmp_path / "p.toml").touch()
    unseen = "workers do not see it; use args of a model, or env where its engine is a command"

    assert told(
        tmp_path / "p.toml", LLAMA_API_KEY="secret", LLAMA_ARG_THREADS="4", CUDA_VISIBLE_DEVICES="1"
    ) == [f"environment: LLAMA_API_KEY: {unseen}", f"environment: LLAMA_ARG_THREADS: {unseen}"]


def test_what_is_allowed_by_hand(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text("[models.a]\nargs = ['--log-file', 'x']\nunsafe_args = true\n")

    assert told(file) == [
        f"{file}:2: models.a.args[0]: allowed by unsafe_args: --log-file: it has files written"
    ]


def test_a_cache_that_the_build_does_not_have(tmp_path: Path) -> None:
    """It is loaded without one. "auto" and 0 ask for nothing."""
    file = tmp_path / "p.toml"
    text = """[defaults]
moe_cache = "2GiB"
[models.a]
moe_cache = "4GiB"
[models.b]
moe_cache = "auto"
[models.c]
moe_cache = 0
"""
    file.write_text(text)
    why = "no effect: this build of llama.cpp has no expert cache (--moe-cache-mib)"
    assert told(file) == [
        f"{file}:2: defaults.moe_cache: {why}",
        f"{file}:4: models.a.moe_cache: {why}",
    ]

    of_command = """[models.d]
engine = "command"
command = ["sh", "{port}"]
moe_cache = "4GiB"
"""
    file.write_text(of_command)
    (note,) = told(file)
    assert note.startswith(f"{file}:4: models.d.moe_cache: only hosted models have it")

    file.write_text(f'{text}[engine]\nlibdir = "{cache_build()}"\n')
    assert told(file) == []
