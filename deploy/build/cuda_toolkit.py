"""Which CUDA compiler a build takes and for which cards: the system's nvcc, or, where there is
none, the one in the package index, which only asks for NVIDIA's driver.

The index has a whole compiler from 13 on. Its packages of 12 have ptxas but no nvcc, so what needs
12 (older drivers, cards before Turing) needs the system's toolkit.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import system_tools
from nvidia_driver import Card, Driver
from steps import Failure, run, say

# What this was tried with. CUDA's minor versions run on every driver of the major one's.
RUNTIME = {
    "nvidia-cuda-runtime": "13.5.37",
    "nvidia-cublas": "13.10.0.20",
    "nvidia-cuda-nvrtc": "13.5.37",  # cuBLAS loads it
}
COMPILER = {
    "nvidia-cuda-nvcc": "13.5.37",
    "nvidia-cuda-crt": "13.5.37",
    "nvidia-nvvm": "13.5.37",
    "nvidia-cuda-cccl": "13.3.5.0.6",
}
MEGABYTES = 630
FOLDER = Path("nvidia", "cu13")  # of site-packages
# By major version of CUDA: the oldest driver and the oldest card that it is for.
NEEDS_DRIVER = {11: 450, 12: 525, 13: 580}
OLDEST_CARD = {11: 35, 12: 50, 13: 75}
INDEX = 13
CHOOSE_INDEX = "packages"  # as CUDACXX: take the index's even where the system has one
ARCHITECTURES = "CMAKE_CUDA_ARCHITECTURES"
ANOTHER = f"name another one's architecture: CMAKE_ARGS=-D{ARCHITECTURES}=86 make setup GPU=cuda"
# Libraries find CUDA's where pip has put them: from site-packages/lib, and site-packages/x/lib.
RPATH = f"""
function(find_cuda_beside_us)
  set_target_properties(ggml-cuda PROPERTIES INSTALL_RPATH_USE_LINK_PATH FALSE
    INSTALL_RPATH "$ORIGIN;$ORIGIN/../{FOLDER}/lib;$ORIGIN/../../{FOLDER}/lib")
endfunction()

cmake_language(DEFER CALL find_cuda_beside_us)
"""
NEWEST_GCC = 16  # by the index's include/crt/host_config.h
OLDER_GCC = {
    "Debian/Ubuntu": f"g++-{NEWEST_GCC}",
    "Fedora": f"gcc{NEWEST_GCC}-c++",
    "Arch": f"gcc{NEWEST_GCC}",
    "openSUSE": f"gcc{NEWEST_GCC}-c++",
}


@dataclass(frozen=True, slots=True)
class Nvcc:
    """A compiler of the system's: its version, and the architectures that it knows, if it says."""

    path: str
    version: tuple[int, ...]
    architectures: frozenset[int] = frozenset()

    @classmethod
    def found(cls) -> "Nvcc | None":
        """The system's; None where there is none, or the index's is wanted."""
        if os.environ.get("CUDACXX") == CHOOSE_INDEX:
            return None
        path = system_tools.find(system_tools.TOOLS["CUDA compiler (nvcc)"])
        if path is None:
            return None
        said = subprocess.run([path, "--list-gpu-code"], capture_output=True, text=True).stdout
        known = frozenset(int(number) for number in re.findall(r"sm_(\d+)", said))
        return cls(path, system_tools.version(path), known)


@dataclass(frozen=True, slots=True)
class Choice:
    """How to build for CUDA: with the system's compiler, or with the index's where that is None."""

    nvcc: Nvcc | None
    flags: tuple[str, ...] = ()

    @property
    def packages(self) -> Mapping[str, str]:
        """What has to be beside llama.cpp when it runs."""
        return RUNTIME if self.nvcc is None else {}

    def key(self) -> list[str]:
        """What makes the result another one; paths of this machine do not."""
        pins = [] if self.nvcc else requirements({**RUNTIME, **COMPILER})
        return [*self.flags, *pins]


def choose(
    nvcc: Nvcc | None, driver: Driver | str, cmake_args: str, system: str | None = None
) -> Choice:
    """Decides. `nvcc`: the system's; `driver`: or why there is none; `system`: whose packages to
    name (system_tools.INSTALLERS).

    Raises Failure where the result could not run, with what to do.
    """
    named = ARCHITECTURES in system_tools.cmake_settings(cmake_args)
    flags: tuple[str, ...] = ()
    if isinstance(driver, Driver):
        _check_driver(nvcc, driver, system)
        flags = () if named else architectures(nvcc, driver.cards, system)
        driver = "NVIDIA's driver sees no card"
    if nvcc is not None:
        return Choice(nvcc, flags)
    if not flags and not named:
        raise Failure(
            f"there is no CUDA compiler (nvcc) here, and {driver}, so it is not known which "
            f"card to build for.\nInstall NVIDIA's driver; or {ANOTHER}"
        )
    # With VMM it would link libcuda, of which the index has no stub.
    return Choice(None, (*flags, "-DGGML_CUDA_NO_VMM=ON"))


def _check_driver(nvcc: Nvcc | None, driver: Driver, system: str | None) -> None:
    major = nvcc.version[0] if nvcc else INDEX
    least = NEEDS_DRIVER.get(major, 0)
    if driver.branch < least:
        raise Failure(
            f"NVIDIA's driver {driver.version} is too old for {_name(nvcc)}, which needs {least}. "
            f"Update the driver{_or_older(major, NEEDS_DRIVER, driver.branch, system)}"
        )


def architectures(nvcc: Nvcc | None, cards: Sequence[Card], system: str | None) -> tuple[str, ...]:
    """CMake's setting for just these cards; none for no card. Raises Failure where the compiler
    knows none of them."""
    major = nvcc.version[0] if nvcc else INDEX
    oldest = OLDEST_CARD.get(major, 0)
    knows = nvcc.architectures if nvcc else frozenset()
    numbers = {card.architecture for card in cards}
    known = sorted(n for n in numbers if n >= oldest and (not knows or n in knows))
    if numbers and not known:
        names = ", ".join(f"{card.name} ({card.architecture / 10})" for card in cards)
        what_else = (
            _or_older(major, OLDEST_CARD, min(numbers), system)
            if min(numbers) < oldest
            else ": install a newer one, or take the package index's by CUDACXX=packages"
        )
        raise Failure(f"{_name(nvcc)} is not for this card: {names}{what_else}")
    return (f"-D{ARCHITECTURES}={';'.join(f'{n}-real' for n in known)}",) if known else ()


def _name(nvcc: Nvcc | None) -> str:
    if nvcc is None:
        return f"the package index's compiler (CUDA {INDEX})"
    return f"CUDA {system_tools.dotted(nvcc.version)} at {nvcc.path}"


def _or_older(major: int, needs: Mapping[int, int], has: int, system: str | None) -> str:
    """What to do instead of a newer driver or card: an older CUDA than `major`, if any needs no
    more than this machine `has`."""
    older = max((v for v, least in needs.items() if v < major and least <= has), default=None)
    if older is None:
        return ""
    tool = system_tools.TOOLS["CUDA compiler (nvcc)"]
    return (
        f"; or install an older toolkit (CUDA {older}): its nvcc is found, or named by "
        "CUDACXX=/path/to/nvcc make setup GPU=cuda\n"
        f"{system_tools.install_line([tool.packages], system)}"
    )


def told(choice: Choice, driver: Driver | str) -> str:
    """What was chosen, in a line."""
    by = _name(choice.nvcc)
    if isinstance(driver, str):
        return f"for CUDA, with {by}; {driver}"
    flag = next((f for f in choice.flags if f.startswith(f"-D{ARCHITECTURES}=")), "")
    taken = {int(n.removesuffix("-real")) for n in flag.partition("=")[2].split(";") if n}
    cards = [card for card in driver.cards if not taken or card.architecture in taken]
    left_out = [card.name for card in driver.cards if card not in cards]
    names = ", ".join(dict.fromkeys(f"{card.name} ({card.architecture / 10})" for card in cards))
    without = f", not for {', '.join(left_out)}, which it does not know" if left_out else ""
    which = f"for {names}{without}" if taken else "for the cards named in CMAKE_ARGS"
    return f"driver {driver.version}: {which}, with {by}"


def requirements(packages: Mapping[str, str]) -> list[str]:
    """As pip takes them."""
    return [f"{name}=={version}" for name, version in packages.items()]


def lay_out(root: Path) -> None:
    """Gives an installed toolkit the names that CMake looks for: `lib64`, and libraries without
    their version."""
    link(root / "lib64", "lib")
    for library in sorted((root / "lib").glob("lib*.so.*")):
        link(library.with_name(library.name.partition(".so.")[0] + ".so"), library.name)


def link(path: Path, to: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(to)


def settings(root: Path) -> list[str]:
    """CMake's settings for a toolkit in this folder."""
    return [f"-DCUDAToolkit_ROOT={root}", f"-DCMAKE_CUDA_COMPILER={root / 'bin' / 'nvcc'}"]


def check_host_compiler() -> None:
    """Raises Failure where the C++ compiler is too new for the index's."""
    tool = system_tools.TOOLS["C++ compiler"]
    compiler = os.environ.get("CUDAHOSTCXX") or system_tools.find(tool)
    if compiler is None:
        return  # which is told with all else that is missing
    said = subprocess.run(
        [compiler, "-dM", "-E", "-x", "c++", os.devnull], capture_output=True, text=True
    ).stdout
    macros = dict(re.findall(r"^#define (__clang__|__GNUC__) (\d+)$", said, re.MULTILINE))
    if "__clang__" not in macros and int(macros.get("__GNUC__", 0)) > NEWEST_GCC:
        raise Failure(
            f"{compiler} is gcc {macros['__GNUC__']}; {_name(None)} takes none newer than "
            f"{NEWEST_GCC}. {system_tools.install_line([OLDER_GCC])}\n"
            f"and then: CUDAHOSTCXX=g++-{NEWEST_GCC} make setup GPU=cuda"
        )


def fetch(python: Path, folder: Path, log: Path) -> Path:
    """The index's toolkit, whole, in a folder of its own; its root. Raises Failure."""
    root = folder / FOLDER
    if not folder.exists():  # an interrupted build has it already
        say(f"fetching CUDA's compiler from the package index (about {MEGABYTES} MB)")
        partial = folder.with_name("fetching")
        shutil.rmtree(partial, ignore_errors=True)
        pip = [str(python), "-m", "pip", "install", "--no-deps", "--no-compile"]
        wanted = requirements({**RUNTIME, **COMPILER})
        run([*pip, "--target", str(partial), *wanted], log, title="fetching CUDA")
        lay_out(partial / FOLDER)
        partial.rename(folder)
    return root
