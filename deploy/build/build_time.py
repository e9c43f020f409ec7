"""About how long a build takes on this machine, said before it starts."""

import resource
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import system_tools

# Minutes that one compiler needs on a machine where PROBE takes PROBE_S of its processor. Vulkan's
# and ROCm's are guesses; CUDA's is from a sample of its kernels.
PROBE_S = 3.0
MINUTES = {"none": 10, "vulkan": 25, "cuda": 10, "rocm": 10}
# Besides, for each kind of card that kernels are compiled for.
CARD_MINUTES = {"cuda": 45, "rocm": 45}
OWN_LIST = 9  # kinds of cards, where nobody names any and this machine's are not meant
SETTINGS = ("CMAKE_CUDA_ARCHITECTURES", "GPU_TARGETS", "AMDGPU_TARGETS")
# What a C++ compiler mostly does: templates.
PROBE = """#include <algorithm>
#include <functional>
#include <regex>
#include <string>
bool probe(const std::string &text) { return std::regex_match(text, std::regex("a+b|c")); }
"""


def minutes(gpu: str, flags: Sequence[str], jobs: int, probe_s: float) -> int:
    """How long a build takes with `jobs` compilers at once, where PROBE takes `probe_s`."""
    alone = MINUTES[gpu] + CARD_MINUTES.get(gpu, 0) * cards(flags)
    return max(1, round(alone * probe_s / PROBE_S / jobs))


def cards(flags: Sequence[str]) -> int:
    """For how many kinds of cards kernels are compiled."""
    settings = system_tools.cmake_settings(shlex.join(flags))
    named = next((settings[name] for name in SETTINGS if name in settings), "")
    if named:
        return len([*filter(None, named.split(";"))])
    return OWN_LIST if settings.get("GGML_NATIVE", "ON") == "OFF" else 1


def told(gpu: str, flags: Sequence[str], jobs: int) -> str:
    """In words."""
    estimate = minutes(gpu, flags, jobs, probe())
    spoken = f"{estimate} min" if estimate < 90 else f"{estimate / 60:.1f} h"
    return f"about {spoken} here, with {jobs} compiler{'s' * (jobs > 1)} at once"


def probe() -> float:
    """How many seconds of a processor the C++ compiler takes for PROBE; PROBE_S where it fails."""
    compiler = system_tools.find(system_tools.TOOLS["C++ compiler"])
    if compiler is None:
        return PROBE_S
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cpp")
        source.write_text(PROBE)
        before = _used_by_children()
        command = [compiler, "-O3", "-c", str(source), "-o", str(source.with_suffix(".o"))]
        failed = subprocess.run(command, capture_output=True).returncode
        return PROBE_S if failed else _used_by_children() - before


def _used_by_children() -> float:
    """Seconds; what else runs here does not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
