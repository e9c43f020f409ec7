"""Other builds of llama.cpp than the one that is installed, laid out as its release archives are:
libraries and programs in one folder. Each is compiled once, and kept in the tests' cache.

The set-up's settings are used, so `deploy/build` has to be importable.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import llama_build
import system_tools

from tests.support.archive import VERSION, cache_folder, source_archive
from tests.support.install import install
from tests.support.turns import one_at_a_time

# As in llama.cpp's release archives: its backends are files of their own, the CPU's one for each
# generation of processors.
DYNAMIC = ("-DGGML_BACKEND_DL=ON", "-DGGML_CPU_ALL_VARIANTS=ON", "-DGGML_NATIVE=OFF")
FLAGS = (
    *llama_build.FLAGS,
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DCMAKE_INSTALL_RPATH=$ORIGIN",  # one folder for all
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
)
SERVER = "llama-server"
RPC_SERVERS = ("ggml-rpc-server", "rpc-server")  # as it is called now, and was
DOWNLOAD_S = 600.0
NOT_BUILT = ("models", "media", "docs")  # most of the archive's bytes


@dataclass(frozen=True, slots=True)
class LlamaBuild:
    """One of llama-cpp-python's releases, built with more settings of CMake than the usual ones."""

    version: str = VERSION
    flags: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        parts = (*FLAGS, *self.flags, system_tools.native_features())
        key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]
        return cache_folder() / f"llama.cpp-{self.version}-{key}"

    def made(self) -> Path:
        """Its folder. Takes minutes where it is not there yet; skips the test where its source
        cannot be had."""
        with one_at_a_time(self.folder):
            if not self.folder.exists():
                with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="build-") as scratch:
                    self._build(Path(scratch)).rename(self.folder)
        return self.folder

    def _archive(self, scratch: Path) -> Path:
        if self.version == VERSION:
            return source_archive()
        pip = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-build-isolation")
        wanted = f"llama-cpp-python=={self.version}"
        command = (*pip, "--no-binary", ":all:", "--dest", str(scratch), wanted)
        install("pip", wanted, command, DOWNLOAD_S)
        return next(scratch.glob("*.tar.gz"))

    def _build(self, scratch: Path) -> Path:
        source, objects, built = scratch / "source", scratch / "objects", scratch / "built"
        source.mkdir()
        leave_out = (f"--exclude=*/vendor/llama.cpp/{name}/*" for name in NOT_BUILT)
        archive = str(self._archive(scratch))
        _run("tar", "-xzf", archive, "-C", str(source), "--strip-components=1", *leave_out)
        llama_cpp = source / "vendor" / "llama.cpp"
        _run("cmake", "-S", str(llama_cpp), "-B", str(objects), *FLAGS, *self.flags)
        rpc = (llama_cpp / "tools" / "rpc" / "CMakeLists.txt").read_text()
        rpc_server = next(name for name in RPC_SERVERS if f"TARGET {name})" in rpc)
        compilers = llama_build.parallel_level()
        _run("cmake", "--build", str(objects), "-j", compilers, "--target", SERVER, rpc_server)
        made = objects / "bin"
        programs = (made / SERVER, made / rpc_server)
        built.mkdir()
        for file in (*made.glob("*.so*"), *programs):
            shutil.copy2(file, built, follow_symlinks=False)
        return built


def _run(*command: str) -> None:
    """At a low priority. Raises AssertionError with what it said last."""
    ended = subprocess.run(
        ("nice", "-n", "10", *command),
        env=os.environ | {"CMAKE_GENERATOR": "Ninja"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert ended.returncode == 0, f"{' '.join(command[:4])}: {ended.stdout[-3000:]}"
