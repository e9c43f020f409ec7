"""CUDA from the package index for real: only with --thorough, as it downloads 630 MB and compiles
for minutes. The driver's answer is a stand-in's; nothing else is."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cuda_toolkit
import llama_build
import pytest

from tests.support.archive import source_archive
from tests.support.nvml import StandInCard, StandInNvml

ROOT = Path(__file__).parents[2]
OBJECTS = 3
MOST_S = 3000.0  # of which one compiler at a time takes most
PROGRAM = """#include <cuda_runtime.h>
#include <cublas_v2.h>
__global__ void kernel(float *x) { x[threadIdx.x] *= 2; }
extern "C" int versions(int *cudart, cublasHandle_t *handle) {
    cudaRuntimeGetVersion(cudart);
    return cublasCreate(handle) == CUBLAS_STATUS_SUCCESS;
}
"""
PROJECT = """cmake_minimum_required(VERSION 3.21)
project(llama_cpp)
find_package(CUDAToolkit REQUIRED)
enable_language(CUDA)
set(CMAKE_INSTALL_RPATH_USE_LINK_PATH TRUE)
add_library(ggml-cuda SHARED x.cu)
target_link_libraries(ggml-cuda PRIVATE CUDA::cudart CUDA::cublas)
set_target_properties(ggml-cuda PROPERTIES INSTALL_RPATH $ORIGIN BUILD_WITH_INSTALL_RPATH TRUE)
"""
pytestmark = pytest.mark.timeout(2 * MOST_S)


@pytest.fixture(scope="module", autouse=True)
def _only_thoroughly(thorough: bool) -> None:
    if not thorough:
        pytest.skip("it downloads 630 MB and compiles for minutes: --thorough")


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a machine with a driver, one card and no toolkit; the cache is its own."""
    nvml = StandInNvml(tmp_path_factory.mktemp("nvml"), StandInCard(name="RTX 3060", capability=86))
    cache = tmp_path_factory.mktemp("cache")
    (cache / "moe-proxy").mkdir()
    shutil.copy(source_archive(), cache / "moe-proxy" / llama_build.ARCHIVE)
    tools = tmp_path_factory.mktemp("bin")
    for folder in filter(os.path.isdir, os.environ["PATH"].split(os.pathsep)):
        for program in Path(folder).iterdir():
            if "nvcc" not in program.name and not (tools / program.name).exists():
                (tools / program.name).symlink_to(program)
    env = {name: value for name, value in os.environ.items() if not name.startswith("CUDA")}
    yield (
        env
        | nvml.env()
        | {
            "PATH": str(tools),
            "CUDACXX": cuda_toolkit.CHOOSE_INDEX,  # should one lie where set-up looks besides
            "PIP_CACHE_DIR": str(cache),
            "CMAKE_BUILD_PARALLEL_LEVEL": "1",
        }
    )
    shutil.rmtree(cache)


def test_a_fresh_clone_configures_and_compiles_its_first_cuda_objects(
    tmp_path: Path, hidden: dict[str, str]
) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    cache = Path(hidden["PIP_CACHE_DIR"], "moe-proxy")
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(
            ["nice", "-n", "19", sys.executable, "deploy/build/prepare.py", "--gpu", "cuda"],
            cwd=clone,
            env=hidden,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    end = time.monotonic() + MOST_S
    done: list[Path] = []
    try:
        while len(done) < OBJECTS and process.poll() is None and time.monotonic() < end:
            time.sleep(1.0)
            done = finished(clone / ".cache" / "setup.log", cache)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()

    told = (tmp_path / "said").read_text()
    assert len(done) >= OBJECTS, told
    assert "driver 580.65.06: for RTX 3060 (8.6), with the package index's compiler" in told
    assert re.search(r"once: about [\d.]+ (min|h) here, with 1 compiler at once", told)
    for compiled in done:
        sections = subprocess.run(
            ["readelf", "-SW", str(compiled)], capture_output=True, text=True, check=True
        ).stdout
        assert ".nv_fatbin" in sections


def finished(log: Path, cache: Path) -> list[Path]:
    """The CUDA objects that ninja has gone on from."""
    text = log.read_text(errors="replace") if log.exists() else ""
    # The last command that is named in the log may still run.
    names = re.findall(r" -o (\S+\.cu\.o)$", text[: text.rfind("\n[")], re.MULTILINE)
    return [found for name in names for found in cache.glob(f"*/objects/{name}")]


def test_what_is_built_finds_cuda_beside_it_in_every_copy(
    tmp_path: Path, hidden: dict[str, str]
) -> None:
    """A library with the real one's name and settings, in both places; nothing is set for it."""
    python, log = Path(sys.executable), tmp_path / "log"
    project, objects = tmp_path / "project", tmp_path / "objects"
    root = cuda_toolkit.fetch(python, tmp_path / "toolkit", log)
    project.mkdir()
    (project / "x.cu").write_text(PROGRAM)
    (project / "CMakeLists.txt").write_text(PROJECT)
    (project / "include.cmake").write_text(cuda_toolkit.RPATH)
    settings = [
        *cuda_toolkit.settings(root),
        "-DCMAKE_CUDA_ARCHITECTURES=86-real",
        f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={project / 'include.cmake'}",
    ]
    for step in (
        ["cmake", "-S", str(project), "-B", str(objects), *settings],
        ["cmake", "--build", str(objects)],
    ):
        subprocess.run(step, env=hidden, check=True)

    packages = tmp_path / "packages"
    wanted = cuda_toolkit.requirements(cuda_toolkit.RUNTIME)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(packages)]
    subprocess.run([*pip, *wanted], check=True)
    shutil.rmtree(tmp_path / "toolkit")  # as after a build
    for place in ("lib", "llama_cpp/lib"):
        copy = packages / place
        copy.mkdir(parents=True)
        shutil.copy(objects / "libggml-cuda.so", copy)
        assert loaded(copy / "libggml-cuda.so") == f"{1000 * 13 + 10 * minor()}"


def minor() -> int:
    return int(cuda_toolkit.RUNTIME["nvidia-cuda-runtime"].split(".")[1])


def loaded(library: Path) -> str:
    """CUDA's version, by a program of its own that loads this as the worker does."""
    code = (
        "import ctypes, sys; n = ctypes.c_int(); h = ctypes.c_void_p()\n"
        "lib = ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)\n"
        "lib.versions(ctypes.byref(n), ctypes.byref(h)); print(n.value)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(library)],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_the_newest_gcc_is_the_one_that_the_toolkit_names(
    tmp_path: Path, hidden: dict[str, str]
) -> None:
    crt = cuda_toolkit.requirements({k: cuda_toolkit.COMPILER[k] for k in ("nvidia-cuda-crt",)})
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*pip, *crt], check=True)

    header = (tmp_path / cuda_toolkit.FOLDER / "include/crt/host_config.h").read_text()

    assert f"gcc versions later than {cuda_toolkit.NEWEST_GCC} are not supported" in header
