"""Where llama-cpp-python's build has put llama.cpp's programs and libraries."""

import importlib.util
import shutil
from pathlib import Path
from typing import Final

# Those of a hosted worker, in the order in which it opens them: a library's own dependencies are
# then already there, whatever its RPATH says.
LIBRARIES: Final = (
    *("ggml-base", "ggml-cpu", "ggml", "llama", "mtmd", "llama-common", "llama-server-impl"),
)
# The CPU's backend may be several files, of which one fits.
CPU_VARIANTS: Final = "libggml-cpu-*.so"


def folder(name: str) -> Path | None:
    """The folder "bin" or "lib" beside the package; None where llama-cpp-python is not installed.

    Its import is spared: that would load llama.cpp into this process.
    """
    spec = importlib.util.find_spec("llama_cpp")
    return Path(spec.origin).parent.parent / name if spec and spec.origin else None


def program(name: str) -> str:
    """The path of one of llama.cpp's programs: of our own build, else one on the PATH.

    Raises LookupError, with words for people.
    """
    ours = folder("bin")
    found = (ours and shutil.which(name, path=str(ours))) or shutil.which(name)
    if not found:
        raise LookupError(f"{name} is missing; make setup builds it")
    return found


def lacking(libdir: Path) -> list[str]:
    """Which of LIBRARIES a folder does not have, nor others in their place. Asks the disk."""
    there = {name for name in LIBRARIES if (libdir / f"lib{name}.so").exists()}
    if any(libdir.glob(CPU_VARIANTS)):
        there.add("ggml-cpu")
    return [name for name in LIBRARIES if name not in there]
