"""The script for machines with a GPU, as far as it goes without one."""

import asyncio
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from bench.gpu.ballast import memory, take
from bench.gpu.bigmodel import MODELS, repeated
from bench.gpu.build import build_gate
from bench.gpu.pack import MOST_BYTES, checked_size, pack_source, wanted
from bench.gpu.report import report
from bench.gpu.work import GO_ON, Results
from proxy.catalog.gguf_reader import read_header

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "bench" / "gpu" / "run.sh"
SMALL = ("--cpu", "--caps", "40MiB", "--depth", "64")
# A card of 10 GiB, 1 GiB of it in use, that refuses what it has no room for.
STAND_IN = """
#include <stddef.h>
static size_t used = 1ul << 30;
int cudaMemGetInfo(size_t *free, size_t *total) {
  *total = 10ul << 30; *free = *total - used; return 0;
}
int cudaMalloc(void **pointer, size_t size) {
  if (used + size > 10ul << 30) return 2;
  used += size; *pointer = &used; return 0;
}
"""


async def run(work: Path, *arguments: str) -> tuple[int, str]:
    """(exit status, output) of one run of the script."""
    process = await asyncio.create_subprocess_exec(
        *(str(SCRIPT), "--work", str(work), "--out", str(work / "out"), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"PYTHON": sys.executable, "PACK": str(work / "no-pack")},
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


@pytest.mark.llama
async def test_all_steps_and_going_on(tmp_path: Path) -> None:
    status, out = await run(tmp_path, *SMALL, "--steps", "build,model,moves")
    assert status == 0, out
    first = json.loads((tmp_path / "results.json").read_text())
    status, out = await run(tmp_path, *SMALL)
    assert status == 0, out
    cells = json.loads((tmp_path / "results.json").read_text())

    moved = cells[f"moves/{40 << 20}"]
    assert {f"moves/{40 << 20}": moved} == first  # not measured twice
    assert moved["splits"] == [6, 3, 0]
    assert all(text["same"] for text in moved["texts"].values())
    assert moved["confined"]
    assert moved["tokens_streamed"] >= 400
    returned = moved["used_with_experts_bytes"] - moved["used_after_bytes"]
    assert returned > 0.9 * moved["experts_moved_bytes"]
    ways = {key.rpartition("/")[2] for key in cells if key.startswith("speed/")}
    assert ways == {"moe-proxy", "llama-server --fit on", "whole layers"}
    for key, cell in cells.items():
        if key.startswith("speed/"):
            assert set(cell["speeds"]) == {"0", "64"}, key
    page = (tmp_path / "out" / "gpu.md").read_text()
    assert "no GPU" in page
    assert page.count("| 40 MiB |") == 1 + 2 * 3
    assert read_header(tmp_path / "tiny.gguf").expert_count == 16


async def test_dry_run_says_what_would_be_done_and_does_nothing(tmp_path: Path) -> None:
    status, out = await run(tmp_path / "work", "--dry-run", "--arch", "90")

    assert status == 0, out
    assert "-DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=90" in out
    assert "8.0 GiB, 12.0 GiB, 16.0 GiB, 24.0 GiB" in out
    assert not (tmp_path / "work").exists()


async def test_stops_before_the_time_limit(tmp_path: Path) -> None:
    assert (await run(tmp_path, *SMALL, "--steps", "model"))[0] == 0
    status, out = await run(tmp_path, *SMALL, "--steps", "moves", "--limit-s", "5")

    assert status == GO_ON, out
    assert "goes on from here" in out


async def test_says_what_is_missing(tmp_path: Path) -> None:
    status, out = await run(tmp_path, "--steps", "build")

    assert status == 1
    assert "bench.gpu.pack" in out
    assert "Traceback" not in out


def test_the_gate_is_built_once(tmp_path: Path) -> None:
    for name in ("stepgate.c", "breakdown.cpp"):
        shutil.copy(ROOT / "proxy" / "worker" / name, tmp_path)

    assert "built" in build_gate(tmp_path)
    assert "is there" in build_gate(tmp_path)
    (library,) = tmp_path.glob("_stepgate*.so")
    assert ctypes.CDLL(str(library)).gate_steps() == 0
    assert not list(tmp_path.glob("*.o"))


def test_ballast_leaves_free_what_it_should(tmp_path: Path) -> None:
    source, library = tmp_path / "cudart.c", tmp_path / "libcudart.so"
    source.write_text(STAND_IN)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    cudart = ctypes.CDLL(str(library))

    assert take(cudart, 8 << 30) == 1 << 30
    assert memory(cudart) == (8 << 30, 10 << 30)
    assert take(cudart, 8 << 30) == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama_cpp_python-1/vendor/llama.cpp/CMakeLists.txt", True),
        ("llama_cpp_python-1/vendor/llama.cpp/tools/server/server.cpp", True),
        ("llama_cpp_python-1/vendor/llama.cpp/tools/ui/src/app.ts", False),
        ("llama_cpp_python-1/vendor/llama.cpp/tools/ui/CMakeLists.txt", True),
        ("llama_cpp_python-1/vendor/llama.cpp/models/ggml-vocab-qwen2.gguf", False),
        ("llama_cpp_python-1/llama_cpp/llama.py", False),
        ("llama_cpp_python-1/.git/modules/vendor/llama.cpp/packed-refs", False),
    ],
)
def test_what_goes_into_the_pack(name: str, expected: bool) -> None:
    assert wanted(name) == expected


def test_a_pack_that_is_too_large_is_told_of(tmp_path: Path) -> None:
    with (tmp_path / "large.whl").open("wb") as file:
        file.truncate(MOST_BYTES)
    assert checked_size(tmp_path) == MOST_BYTES

    (tmp_path / "small.whl").write_bytes(b"x")

    with pytest.raises(SystemExit, match=r"more than 58; leave out --cmake, or of .*large\.whl"):
        checked_size(tmp_path)


def test_the_pack_can_be_taken_along(tmp_path: Path, thorough: bool) -> None:
    """With the wheels for a machine that has nothing but Python, CMake and a compiler."""
    if not thorough:
        pytest.skip("it packs for a minute, and downloads 25 MB: --thorough")
    command = (sys.executable, "-m", "bench.gpu.pack", "--python", "3.12", "--to", str(tmp_path))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / "llama.cpp.tar.xz") as source:
        assert "llama.cpp/ggml/src/ggml-cuda/CMakeLists.txt" in source.getnames()
    assert [*(tmp_path / "wheels").glob("*.whl")]


def test_models_have_the_sizes_of_the_real_ones() -> None:
    for name, gigabytes in (("qwen3-30b-a3b", 16.3), ("gpt-oss-120b", 60.9)):
        sizes = MODELS[name][1]
        bits = {"Q4_K": 4.5, "MXFP4": 4.25}[sizes.experts_type.name]
        matrix = sizes.experts * sizes.width * sizes.expert_width
        assert sizes.layers * 3 * matrix * bits / 8 / 1e9 == pytest.approx(gigabytes, abs=0.1)


def test_repeated_experts_are_turned_and_not_alike() -> None:
    few = np.arange(4 * 6 * 2, dtype=np.uint8).reshape(4, 6, 2)

    whole = repeated(few, 8, turn=1)

    assert whole.shape == (8, 6, 2)
    assert len({expert.tobytes() for expert in whole}) == 8
    for index, expert in enumerate(whole):
        assert {row.tobytes() for row in expert} == {row.tobytes() for row in few[index % 4]}


async def test_results_are_measured_once_and_kept(tmp_path: Path) -> None:
    asked = []

    async def measure() -> dict[str, int]:
        asked.append(1)
        return {"x": 1}

    file = tmp_path / "results.json"
    assert await Results(file).once("a", measure) == {"x": 1}
    assert await Results(file).once("a", measure) == {"x": 1}
    assert len(asked) == 1


def test_report_compares_with_fit() -> None:
    speeds = {"0": {"prompt": 100.0, "generation": 50.0}}
    faster = {"0": {"prompt": 120.0, "generation": 45.0}}
    cells = {
        f"speed/{8 << 30}/moe-proxy": {"placement": "N = 9", "speeds": faster, "used_bytes": 0},
        f"speed/{8 << 30}/llama-server --fit on": {"placement": "-", "speeds": speeds},
    }

    page = report(cells, machine="a machine", model="a model", date="2026-11-23")

    assert "| 8.0 GiB | moe-proxy | N = 9 | 0 MiB | 0 | 120.0 | 45.0 | 1.20, 0.90 |" in page


def test_a_long_name_is_packed_under_its_new_name(tmp_path: Path) -> None:
    """Template instances of CUDA kernels have names that a plain tar header has no room for."""
    inside = f"ggml/src/{'long-' * 20}instance.cu"
    with tarfile.open(tmp_path / "archive.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo(f"llama_cpp_python-1/vendor/llama.cpp/{inside}"))
    pack_source(tmp_path / "archive.tar.gz", tmp_path / "packed.tar.xz")
    with tarfile.open(tmp_path / "packed.tar.xz") as packed:
        assert packed.getnames() == [f"llama.cpp/{inside}"]
