"""Builds llama-cpp-python with llama.cpp's server library and tools in it, and keeps the result.

pip keys its own cache of wheels by the source alone, so a wheel that somebody built without the
server, or for another GPU, would be taken in silence. Ours is kept beside it under a key of
everything that makes it what it is: the version, the CMake settings, the processor.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path

import build_errors
import build_time
import cuda_toolkit
import system_tools
from steps import Failure, only_one, run, say

INCLUDE = "only-what-we-use.cmake"
GPU_FLAGS = {
    "none": (),
    "cuda": ("-DGGML_CUDA=ON",),
    "vulkan": ("-DGGML_VULKAN=ON",),
    "rocm": ("-DGGML_HIP=ON",),
}
ORIGIN = "@loader_path" if sys.platform == "darwin" else "$ORIGIN"
FLAGS = (
    "-DLLAVA_BUILD=OFF",  # or tools/mtmd is added twice and CMake stops
    "-DGGML_RPC=ON",
    "-DLLAMA_BUILD_TOOLS=ON",
    "-DLLAMA_BUILD_SERVER=ON",
    "-DLLAMA_TOOLS_INSTALL=ON",
    "-DLLAMA_USE_PREBUILT_UI=OFF",  # or the build downloads a web page
    "-DLLAMA_OPENSSL=OFF",
    f"-DCMAKE_INSTALL_RPATH={ORIGIN}/../lib",  # the programs find their libraries wherever they are
)
# Programs that must have come along, each with an option that makes it start and end at once.
PROGRAMS = {
    "llama-server": "--version",
    "ggml-rpc-server": "--help",
    "llama-bench": "--help",
    "llama-fit-params": "--help",
    "llama-quantize": "--help",
}
# A compiler of C++ templates may need this much; too many at once and the machine starts to swap.
BYTES_PER_COMPILER = 1 << 30


def required_version() -> str:
    """The version of llama-cpp-python that pyproject.toml pins."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    for requirement in project["project"]["dependencies"]:
        name, _, version = requirement.partition("==")
        if name == "llama-cpp-python":
            return str(version)
    raise Failure("pyproject.toml does not pin llama-cpp-python")


VERSION = required_version()
ARCHIVE = f"llama_cpp_python-{VERSION}.tar.gz"


@dataclass(frozen=True, slots=True)
class Flavour:
    """What the user chose: the kind of GPU, more CMake settings, and CUDA's compiler."""

    gpu: str
    cmake_args: str
    cudacxx: str = ""

    @classmethod
    def chosen(cls, gpu: str, previous: dict[str, str]) -> "Flavour":
        """From the command line and the environment; what neither names stays as it was."""
        gpu = gpu or previous.get("gpu", "none")
        if gpu not in GPU_FLAGS:
            raise Failure(f"GPU={gpu} is not known; use one of {', '.join(GPU_FLAGS)}")
        cmake_args = os.environ.get("CMAKE_ARGS", previous.get("cmake_args", ""))
        return cls(gpu, cmake_args, os.environ.get("CUDACXX", previous.get("cudacxx", "")))

    def record(self) -> dict[str, str]:
        """What the next call without any of these is to know."""
        return asdict(self)

    def flags(self) -> list[str]:
        """All CMake settings except the include file; the user's come last, so they win."""
        return [*FLAGS, *GPU_FLAGS[self.gpu], *shlex.split(self.cmake_args)]

    def builds_for(self, gpu: str) -> bool:
        """Whether it is for this kind of GPU, alone or by CMake's settings besides another one."""
        setting = GPU_FLAGS[gpu][0].removeprefix("-D").partition("=")[0]
        value = system_tools.cmake_settings(self.cmake_args).get(setting, str(self.gpu == gpu))
        return value.upper() in ("ON", "1", "TRUE", "YES")


class Build:
    """One way to build llama-cpp-python, and the folder under pip's cache that holds its result."""

    def __init__(
        self,
        flavour: Flavour,
        *,
        cache: Path,
        include_dir: Path,
        cuda: cuda_toolkit.Choice | None = None,
    ) -> None:
        """`cuda`: which compiler, where it is built for CUDA."""
        self.flavour = flavour
        self.cuda = cuda
        self.include = include_dir / INCLUDE
        self.sources = cache / "moe-proxy"
        self.folder = self.sources / f"llama-{VERSION}-{self.key()}"

    def key(self) -> str:
        """Changes with everything that changes what is built."""
        parts = [
            VERSION,
            *self.flavour.flags(),
            *(self.cuda.key() if self.cuda else ()),
            self.include_text(),
            platform.platform(terse=True) if sys.platform == "darwin" else platform.libc_ver()[0],
            platform.machine(),
            system_tools.native_features(),
        ]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    def include_text(self) -> str:
        """What CMake reads besides llama-cpp-python's own."""
        beside = cuda_toolkit.RPATH if self.from_index else ""
        return self.include.read_text() + beside

    @property
    def from_index(self) -> bool:
        """Whether CUDA comes from the package index."""
        return self.cuda is not None and self.cuda.nvcc is None

    def wheel(self) -> Path | None:
        """The finished wheel, if there is one."""
        return next(self.folder.glob("*.whl"), None)

    def forget(self) -> None:
        """Removes the finished wheel and whatever was left of a build."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def install(self, python: Path, log: Path, *, fresh: bool) -> None:
        """Puts the build into the environment of `python`, building it first where there is none.

        A wheel from the cache whose programs do not start here is built again, once.
        """
        venv = python.parent.parent
        marker = venv / "moe-proxy-llama.txt"
        current = marker.read_text() if marker.exists() else ""
        if current == self.folder.name and not fresh and installed(venv) and starts(venv) is None:
            return
        self.sources.mkdir(exist_ok=True)
        lock = self.sources / f"{self.folder.name}.lock"
        for attempt in ("cached", "built"):
            with only_one(lock, "another clone that builds the same"):
                reused = self.wheel()
                wheel = reused or self.make(python, log)
            say(f"installing {wheel.name} ({'from the cache' if reused else 'just built'})")
            pip = [str(python), "-m", "pip", "install", "--no-deps", "--force-reinstall"]
            run([*pip, str(wheel)], log)
            if self.cuda and self.cuda.packages:
                run([*pip[:-1], *cuda_toolkit.requirements(self.cuda.packages)], log)
            problem = starts(venv)
            if problem is None:
                marker.write_text(self.folder.name)
                return
            if not reused or attempt == "built":
                raise Failure(f"llama.cpp was built, but {problem}")
            say(f"the cached build is of no use here ({problem}); building it again")
            self.forget()

    def explain(self, output: str) -> str | None:
        """Why a build failed, in a line or two, from what it said."""
        found = build_errors.cause(output, self.flavour.gpu)
        if found is None:
            return None
        why, packages = found
        advice = f"\n{system_tools.install_line([packages])}" if packages else ""
        return f"llama.cpp was not built for GPU={self.flavour.gpu}: {why}{advice}"

    def flags(self, toolkit: Path) -> list[str]:
        """All CMake settings. `toolkit`: where CUDA from the package index is."""
        ours = [*(self.cuda.flags if self.cuda else ())]
        if self.from_index:
            ours += cuda_toolkit.settings(toolkit / cuda_toolkit.FOLDER)
        include = f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={self.folder / INCLUDE}"
        return [*ours, *self.flavour.flags(), include]

    def environment(self, toolkit: Path) -> dict[str, str]:
        """With which pip builds; the include file is written."""
        (self.folder / INCLUDE).write_text(self.include_text())
        arguments = shlex.join(self.flags(toolkit))
        env = {"CMAKE_ARGS": arguments, "CMAKE_BUILD_PARALLEL_LEVEL": parallel_level()}
        if self.flavour.gpu == "rocm":
            env |= system_tools.rocm_environment()
        if self.cuda:
            index = toolkit / cuda_toolkit.FOLDER / "bin" / "nvcc"
            env["CUDACXX"] = self.cuda.nvcc.path if self.cuda.nvcc else str(index)
        return env

    def make(self, python: Path, log: Path) -> Path:
        """Compiles. What an interrupted build left is used, so that it goes on where it stopped."""
        self.folder.mkdir(parents=True, exist_ok=True)
        source = self.folder / "source"
        if not source.exists():
            unpack(self.sources / ARCHIVE, source)
        toolkit = self.folder / "toolkit"
        if self.from_index:
            cuda_toolkit.fetch(python, toolkit, log)
        env = self.environment(toolkit)
        jobs = int(env["CMAKE_BUILD_PARALLEL_LEVEL"])
        needs = build_time.told(self.flavour.gpu, self.flags(toolkit), jobs)
        say(f"building llama.cpp for GPU={self.flavour.gpu}, once: {needs}; its output: {log}")
        objects, result = self.folder / "objects", self.folder / "result"
        # No cache of pip's: it would answer with any wheel ever built from this source.
        options = ["--verbose", "--no-deps", "--no-build-isolation", "--no-cache-dir"]
        options += ["--config-settings", f"build-dir={objects}"]
        pip_wheel = [str(python), "-m", "pip", "wheel", *options, "--wheel-dir", str(result)]
        try:
            run(
                [*pip_wheel, str(source)],
                log,
                env=env,
                title="compiling llama.cpp",
                explain=self.explain,
            )
        except Failure:
            if not any(objects.rglob("*.o")):  # CMake remembers what it did not find
                shutil.rmtree(objects, ignore_errors=True)
            raise
        built = next(result.glob("*.whl"))
        wheel = built.rename(self.folder / built.name)
        for leftover in (source, objects, result, toolkit):
            shutil.rmtree(leftover, ignore_errors=True)
        return wheel


def fetch_source(pip: list[str], build: Build, log: Path, *, link_from: Path) -> None:
    """Downloads the source archive into the cache; links it into the clone, where tests read it."""
    archive = build.sources / ARCHIVE
    if not archive.exists():
        say(f"downloading {ARCHIVE} (about 76 MB)")
        partial = build.sources / f"download-{os.getpid()}"
        partial.mkdir(parents=True)
        command = [*pip, "download", "--no-deps", "--no-build-isolation", "--progress-bar", "off"]
        command += ["--no-binary", "llama-cpp-python", f"llama-cpp-python=={VERSION}"]
        try:
            run([*command, "--dest", str(partial)], log)
            next(partial.glob("*.tar.gz")).rename(archive)
        finally:
            shutil.rmtree(partial)
    link = source_link(link_from)
    if not link.exists():
        try:
            link.hardlink_to(archive)
        except OSError:  # another file system
            shutil.copy(archive, link)


def source_link(folder: Path) -> Path:
    """Where a clone has the source archive."""
    return folder / ARCHIVE


def unpack(archive: Path, target: Path) -> None:
    """Unpacks the archive's only folder as `target`, all of it or nothing."""
    partial = target.with_name("unpacking")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    subprocess.run(["tar", "-xzf", str(archive), "-C", str(partial)], check=True)
    next(partial.iterdir()).rename(target)
    partial.rmdir()


def programs(venv: Path) -> dict[str, Path | None]:
    """Where each of PROGRAMS is in an environment."""
    return {
        name: next(venv.glob(f"lib/python3*/site-packages/bin/{name}"), None) for name in PROGRAMS
    }


def installed(venv: Path) -> bool:
    """Whether all programs are there; a plain llama-cpp-python has none of them."""
    return None not in programs(venv).values()


def starts(venv: Path) -> str | None:
    """What keeps the programs of an environment from running; None if they do."""
    for name, path in programs(venv).items():
        if path is None:
            return f"{name} is missing"
        result = subprocess.run([path, PROGRAMS[name]], capture_output=True, text=True)
        # 126 and 127: not a program, or a library is missing; negative: a signal (an instruction
        # this processor lacks). The rest is its own affair: llama-quantize ends --help with 1.
        if result.returncode in (126, 127) or result.returncode < 0:
            return f"{name} does not start: {(result.stderr or result.stdout).strip()[:300]}"
    return None


def parallel_level() -> str:
    """How many compilers at once: one a core, fewer where memory is short, or as the user says."""
    if level := os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL"):
        return level
    can_ask = hasattr(os, "sched_getaffinity")  # a container may own fewer than there are
    cores = len(os.sched_getaffinity(0)) if can_ask else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return str(max(1, min(cores, memory // BYTES_PER_COMPILER)))
