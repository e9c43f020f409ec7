"""A GPU's real driver without a GPU: Mesa's llvmpipe, which computes Vulkan on the CPU, and ggml's
Vulkan backend, prebuilt, which joins our build as a file of its own.

Unlike an RPC server it takes several workers at once. It shows all of its 2 GiB as free at all
times, so `limit` is what makes it small.
"""

import contextlib
import ctypes
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from proxy.worker.libraries import default_libdir
from tests.support.archive import cache_folder
from tests.support.llama import Client, plain_server
from tests.support.npm import packages
from tests.support.nvml import RETURNS_MEMORY

DEVICE = "Vulkan0"
PACKAGE = "@node-llama-cpp/linux-x64-vulkan@3.22.1"
BINARIES = Path("node_modules/@node-llama-cpp/linux-x64-vulkan/bins/linux-x64-vulkan")
# A long prompt in a few tokens: this driver takes its time. 32 is where ggml brings weights to the
# device for a batch.
BATCH = 32
SMALL_BATCHES = ("-ub", str(BATCH), "-b", str(BATCH))
DRIVERS = Path("/usr/share/vulkan/icd.d")


def binaries() -> Path:
    """The folder of a build with dynamic backends: the CPU's for several processors, and Vulkan's.
    Skips the test where it, or a driver for it, cannot be had."""
    if not _drivers():
        pytest.skip("there is no llvmpipe here (Debian: mesa-vulkan-drivers)")
    try:
        ctypes.CDLL("libvulkan.so.1")
    except OSError as error:
        pytest.skip(f"there is no Vulkan here: {error}")
    return packages(PACKAGE) / BINARIES


def _drivers() -> list[Path]:
    return sorted(DRIVERS.glob("lvp_icd*.json"))


@contextlib.contextmanager
def on_llvmpipe() -> Iterator[Path]:
    """The backend's file. Within the block, who is started here finds llvmpipe, and no other
    device; compiled shaders are kept between runs."""
    file = binaries() / "libggml-vulkan.so"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VK_ICD_FILENAMES", os.pathsep.join(map(str, _drivers())))
        # It is passed over unless it is named: its device is of the kind CPU.
        patch.setenv("GGML_VK_VISIBLE_DEVICES", "0")
        patch.setenv("MESA_SHADER_CACHE_DIR", str(cache_folder()))
        # It computes on the thread that asks: more of them would only wait for each other here.
        patch.setenv("LP_NUM_THREADS", "0")
        # What the driver frees is the system's again, and not the allocator's.
        patch.setenv(*RETURNS_MEMORY.split("="))
        yield file


@contextlib.asynccontextmanager
async def plain(backend: Path, path: Path, n: int, *arguments: str) -> AsyncIterator[Client]:
    """llama-server itself, with the same backend and `--n-cpu-moe N`."""
    env = {"GGML_BACKEND_PATH": str(backend), "LD_LIBRARY_PATH": str(default_libdir())}
    usual = ("-ngl", "999", "--n-cpu-moe", str(n), "-t", "1", "--device", DEVICE)
    async with (
        plain_server(path, *usual, *arguments, env=env) as address,
        Client(address) as client,
    ):
        yield client
