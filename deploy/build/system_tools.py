"""What has to be on the system before anything can be built, and what to install if it is not."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from steps import Failure


@dataclass(frozen=True, slots=True)
class Tool:
    """Something to find: any of `programs` (they may be files), and its package on each system."""

    programs: tuple[str, ...]
    packages: dict[str, str]
    minimum: tuple[int, int] | None = None
    variable: str = ""  # names the program in the environment, before `programs` are looked for


TOOLS = {
    "C++ compiler": Tool(
        ("c++", "g++", "clang++"),
        {
            "Debian/Ubuntu": "build-essential",
            "Fedora": "gcc-c++",
            "Arch": "base-devel",
            "openSUSE": "gcc-c++",
            "macOS": "xcode-select --install",
        },
        variable="CXX",
    ),
    "Python headers": Tool(
        (str(Path(sysconfig.get_paths()["include"], "Python.h")),),
        {
            "Debian/Ubuntu": "python3-dev",
            "Fedora": "python3-devel",
            "Arch": "python",
            "openSUSE": "python3-devel",
            "Homebrew": "python",
        },
    ),
    "CMake": Tool(
        ("cmake",),
        {
            "Debian/Ubuntu": "cmake",
            "Fedora": "cmake",
            "Arch": "cmake",
            "openSUSE": "cmake",
            "Homebrew": "cmake",
        },
        minimum=(3, 21),
    ),
    "make or ninja": Tool(
        ("ninja", "make"),
        {
            "Debian/Ubuntu": "ninja-build",
            "Fedora": "ninja-build",
            "Arch": "ninja",
            "openSUSE": "ninja",
            "Homebrew": "ninja",
        },
    ),
    "CUDA compiler (nvcc)": Tool(
        ("nvcc", "/usr/local/cuda/bin/nvcc"),
        {
            "Debian/Ubuntu": "nvidia-cuda-toolkit",
            "Fedora": "cuda-toolkit (from NVIDIA's repository)",
            "Arch": "cuda",
            "openSUSE": "cuda-toolkit (from NVIDIA's repository)",
        },
        variable="CUDACXX",
    ),
    "Vulkan shader compiler (glslc)": Tool(
        ("glslc",),
        {
            "Debian/Ubuntu": "glslc libvulkan-dev spirv-headers",
            "Fedora": "glslc vulkan-headers vulkan-loader-devel spirv-headers-devel",
            "Arch": "shaderc vulkan-headers vulkan-icd-loader spirv-headers",
            "openSUSE": "shaderc vulkan-headers vulkan-devel spirv-headers",
            "Homebrew": "shaderc vulkan-headers vulkan-loader spirv-headers",
        },
    ),
    "ROCm (hipconfig)": Tool(
        ("hipconfig", "/opt/rocm/bin/hipconfig"),
        {
            "Debian/Ubuntu": "rocm-hip-sdk (from AMD's repository, repo.radeon.com)",
            "Fedora": "rocm-hip-devel hipblas-devel rocblas-devel",
            "Arch": "rocm-hip-sdk",
            "openSUSE": "rocm-hip-sdk (from AMD's repository)",
        },
        minimum=(6, 1),  # ggml/src/ggml-hip/CMakeLists.txt
    ),
}
# What a build for a kind of GPU needs besides.
FOR_GPU = {
    "none": (),
    "cuda": (),  # cuda_toolkit decides
    "vulkan": (),  # vulkan_sdk looks
    "rocm": ("ROCm (hipconfig)",),
}


# How each system installs packages, and which of the words in /etc/os-release stand for it.
INSTALLERS = {
    "Debian/Ubuntu": "sudo apt install",
    "Fedora": "sudo dnf install",
    "Arch": "sudo pacman -S",
    "openSUSE": "sudo zypper install",
    "Homebrew": "brew install",
}
SYSTEMS = {
    **dict.fromkeys(("debian", "ubuntu"), "Debian/Ubuntu"),
    **dict.fromkeys(("fedora", "rhel", "centos"), "Fedora"),
    "arch": "Arch",
    **dict.fromkeys(("opensuse", "suse", "opensuse-leap", "sles"), "openSUSE"),
}


def check(names: Iterable[str], system: str | None = None) -> None:
    """Raises one Failure that names everything missing, and in a line what to install. `system`:
    one of INSTALLERS; None: this one."""
    wrong = {name: what for name in names if (what := missing(name, TOOLS[name]))}
    if wrong:
        advice = install_line([TOOLS[name].packages for name in wrong], system)
        raise Failure(f"the build needs more of the system: {'; '.join(wrong.values())}.\n{advice}")


def install_line(needed: Sequence[Mapping[str, str]], system: str | None = None) -> str:
    """The line that installs packages on this system, or one for each where it is not known."""
    system = system or this_system()
    lines = {}
    for name, installer in INSTALLERS.items():
        if all(name in packages for packages in needed):
            found = dict.fromkeys(packages[name] for packages in needed)
            lines[name] = f"{installer} {' '.join(found)}"
    if system in lines:
        return f"Install it: {lines[system]}"
    if any("macOS" in packages for packages in needed):
        lines["macOS"] = next(p["macOS"] for p in needed if "macOS" in p)
    return "Install it:\n" + "\n".join(f"  {name}: {line}" for name, line in lines.items())


def this_system(release: Path = Path("/etc/os-release")) -> str | None:
    """The one of INSTALLERS that this system has; None where nobody knows."""
    if sys.platform == "darwin":
        return "Homebrew"
    try:
        text = release.read_text(errors="replace")
    except OSError:
        return None
    words = " ".join(re.findall(r"^(?:ID|ID_LIKE)=[\"']?([^\"'\n]*)", text, re.MULTILINE)).split()
    return next((SYSTEMS[word] for word in words if word in SYSTEMS), None)


def find(tool: Tool) -> str | None:
    """The path of the first program of `tool` that is there. Raises Failure where its variable
    names another that is not."""
    named = os.environ.get(tool.variable, "").split()[:1] if tool.variable else []
    for name in (*named, *tool.programs):
        if path := shutil.which(name) or (name if os.path.isfile(name) else None):
            return path
        if name in named:
            raise Failure(f"{tool.variable} names {name}, which is no program here")
    return None


def missing(name: str, tool: Tool) -> str | None:
    """What is wrong with `tool`; None if it is there and new enough."""
    path = find(tool)
    if path is None:
        return f"{name} was not found"
    if tool.minimum and (found := version(path)) < tool.minimum:
        return f"{name} is too old: {dotted(found)} at {path}, needed is {dotted(tool.minimum)}"
    return None


def version(program: str) -> tuple[int, ...]:
    """The first two numbers that `program --version` prints; (0, 0) if it prints none."""
    output = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    match = re.search(r"(\d+)\.(\d+)", output)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(str(number) for number in numbers)


def cmake_settings(cmake_args: str) -> dict[str, str]:
    """What `-DNAME=VALUE` and `-DNAME:TYPE=VALUE` among CMake's arguments set."""
    words = [word.removeprefix("-D").partition("=") for word in shlex.split(cmake_args)]
    return {name.partition(":")[0]: value for name, equals, value in words if equals}


def native_features() -> str:
    """What this machine's processor can do, as the compiler sees it with -march=native.

    llama.cpp is built for exactly these; the result of another machine may not run here. Empty
    where the compiler does not know the option.
    """
    compiler = find(TOOLS["C++ compiler"])
    if compiler is None:
        return ""
    command = [compiler, "-march=native", "-dM", "-E", "-x", "c++", os.devnull]
    macros = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    return "\n".join(sorted(line for line in macros if line.endswith("__ 1")))


def rocm_environment() -> dict[str, str]:
    """The variables with which CMake finds ROCm's compiler; those that are set already stay."""
    hipconfig = find(TOOLS["ROCm (hipconfig)"])
    if hipconfig is None:
        return {}

    def ask(option: str) -> str:
        return subprocess.run([hipconfig, option], capture_output=True, text=True).stdout.strip()

    found = {"HIPCXX": str(Path(ask("-l")) / "clang"), "HIP_PATH": ask("-R")}
    return {name: os.environ.get(name, value) for name, value in found.items()}
