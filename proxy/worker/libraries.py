"""llama.cpp's libraries as files: which there are, and in which order a process opens them."""

import ctypes as c
from pathlib import Path

from proxy.engine import installed
from proxy.worker import releases
from proxy.worker.backends import INIT

GGML = "ggml"
LOAD_ORDER, CPU_VARIANTS = installed.LIBRARIES, installed.CPU_VARIANTS
CPU_FILES = "libggml-cpu*.so"
BACKENDS = ("cuda", "hip", "musa", "vulkan", "metal", "sycl", "opencl", "cann", "blas", "rpc")


class LlamaError(RuntimeError):
    """The libraries are missing, or are not the ones that this code was written for; or what they
    do is not what is needed now."""


def default_libdir() -> Path:
    """The folder into which llama-cpp-python's build puts llama-server's library:
    <site-packages>/lib."""
    found = installed.folder("lib")
    if found is None:
        raise LlamaError("llama-cpp-python is not installed")
    return found


def backends_in(libdir: Path) -> tuple[str, ...]:
    """The backends of ggml, beside the CPU, whose libraries are there."""
    return tuple(name for name in BACKENDS if _file(libdir, f"ggml-{name}").exists())


def open_ggml(libdir: Path) -> dict[str, c.CDLL]:
    """The first of LOAD_ORDER, up to ggml, by name, and the backends that it is linked to."""
    variants = [*libdir.glob(CPU_VARIANTS)]
    order = [name for name in LOAD_ORDER if name != "ggml-cpu" or not variants]
    if missing := installed.lacking(libdir):
        raise LlamaError(releases.why_missing(libdir, missing))
    loaded = {name: _load(libdir, name) for name in order[: order.index(GGML)]}
    # One that can be a backend by itself is linked to by nobody: if its driver is missing, that is
    # no harm.
    if not (variants or hasattr(loaded["ggml-cpu"], INIT)):
        for name in backends_in(libdir):
            _load(libdir, f"ggml-{name}")
    return loaded | {GGML: _load(libdir, GGML)}


def open_others(libdir: Path) -> dict[str, c.CDLL]:
    """The others."""
    return {name: _load(libdir, name) for name in LOAD_ORDER[LOAD_ORDER.index(GGML) + 1 :]}


def _file(libdir: Path, name: str) -> Path:
    return libdir / f"lib{name}.so"


def _load(libdir: Path, name: str) -> c.CDLL:
    return c.CDLL(str(_file(libdir, name)), mode=c.RTLD_GLOBAL)
