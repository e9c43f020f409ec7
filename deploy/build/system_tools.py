"""What has to be on the system before anything can be built, and what to install if it is not."""

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable
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
            "Homebrew": "python",
        },
    ),
    "CMake": Tool(
        ("cmake",),
        {"Debian/Ubuntu": "cmake", "Fedora": "cmake", "Arch": "cmake", "Homebrew": "cmake"},
        minimum=(3, 21),
    ),
    "make or ninja": Tool(
        ("ninja", "make"),
        {
            "Debian/Ubuntu": "ninja-build",
            "Fedora": "ninja-build",
            "Arch": "ninja",
            "Homebrew": "ninja",
        },
    ),
    "CUDA compiler (nvcc)": Tool(
        ("nvcc", "/usr/local/cuda/bin/nvcc"),
        {
            "Debian/Ubuntu": "nvidia-cuda-toolkit",
            "Fedora": "cuda-toolkit (from NVIDIA's repository)",
            "Arch": "cuda",
        },
        variable="CUDACXX",
    ),
    "Vulkan shader compiler (glslc)": Tool(
        ("glslc",),
        {
            "Debian/Ubuntu": "glslc libvulkan-dev spirv-headers",
            "Fedora": "glslc vulkan-headers vulkan-loader-devel spirv-headers-devel",
            "Arch": "shaderc vulkan-headers vulkan-icd-loader spirv-headers",
            "Homebrew": "shaderc vulkan-headers vulkan-loader spirv-headers",
        },
    ),
    "ROCm (hipconfig)": Tool(
        ("hipconfig", "/opt/rocm/bin/hipconfig"),
        {
            "Debian/Ubuntu": "hipcc libhipblas-dev librocblas-dev",
            "Fedora": "rocm-hip-devel hipblas-devel rocblas-devel",
            "Arch": "rocm-hip-sdk",
        },
    ),
}
# What a build for a kind of GPU needs besides.
FOR_GPU = {
    "none": (),
    "cuda": ("CUDA compiler (nvcc)",),
    "vulkan": ("Vulkan shader compiler (glslc)",),
    "rocm": ("ROCm (hipconfig)",),
}


def check(names: Iterable[str]) -> None:
    """Raises one Failure that names everything missing and, per system, the package to install."""
    problems = [problem for name in names if (problem := missing(name, TOOLS[name]))]
    if problems:
        raise Failure("the build needs some things from the system first:\n" + "\n".join(problems))


def find(tool: Tool) -> str | None:
    """The path of the first program of `tool` that is there."""
    named = os.environ.get(tool.variable, "") if tool.variable else ""
    for name in (*named.split()[:1], *tool.programs):
        if path := shutil.which(name) or (name if os.path.isfile(name) else None):
            return path
    return None


def missing(name: str, tool: Tool) -> str | None:
    """What is wrong with `tool` and how to mend it; None if it is there and new enough."""
    path = find(tool)
    if path is None:
        wrong = f"{name} was not found"
    elif tool.minimum and (found := version(path)) < tool.minimum:
        wrong = f"{name} is too old: {dotted(found)} at {path}, needed is {dotted(tool.minimum)}"
    else:
        return None
    advice = "\n".join(f"      {system}: {package}" for system, package in tool.packages.items())
    return f"  - {wrong}. Install:\n{advice}"


def version(program: str) -> tuple[int, ...]:
    """The first two numbers that `program --version` prints; (0, 0) if it prints none."""
    output = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    match = re.search(r"(\d+)\.(\d+)", output)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(str(number) for number in numbers)


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
