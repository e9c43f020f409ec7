"""Whether what llama.cpp's Vulkan backend is built with is there, and new enough: headers, glslc,
the loader, SPIRV-Headers. Looked at before anything is fetched or compiled."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import system_tools
from steps import Failure

# vk::LayerSettingEXT, which llama.cpp uses, came with these.
MINIMUM = (1, 3, 272)
HEADER = "vulkan/vulkan.h"
# The first releases of distributions that have them, where older ones are still about.
FIRST_RELEASE = {"debian": ((13,), "Debian 13"), "ubuntu": ((24, 4), "Ubuntu 24.04")}
HOW_ELSE = (
    "Unpack LunarG's Vulkan SDK (vulkan.lunarg.com, which has headers, loader and glslc), call "
    "`. setup-env.sh` in its folder, and `make setup GPU=vulkan` in the same shell"
)
HAS = re.compile(r"^#define (VK_HEADER_VERSION|VK_HEADER_VERSION_COMPLETE)\b(.*)$", re.MULTILINE)
PROBE = f"#include <{HEADER}>\n"


@dataclass(frozen=True, slots=True)
class Found:
    """What this machine has. `headers`: their version; None where there are none."""

    headers: tuple[int, ...] | None
    glslc: str | None
    loader: bool = True
    spirv: bool = True


def check(cmake_args: str, release: Path = Path("/etc/os-release")) -> None:
    """Raises Failure with all that is missing or too old, and what to do. `cmake_args`: what the
    user names there counts as found."""
    text = release.read_text(errors="replace") if release.exists() else ""
    if failure := problem(look(cmake_args), os_release(text), system_tools.this_system(release)):
        raise Failure(failure)


def problem(found: Found, release: Mapping[str, str], system: str | None) -> str | None:
    """What is wrong, with what to do about it; None where nothing is. `release`: /etc/os-release;
    `system`: whose packages to name."""
    needed = system_tools.dotted(MINIMUM)
    wrong = []
    if found.headers is None:
        wrong.append(f"Vulkan's headers were not found (needed: {needed} or newer)")
    elif found.headers < MINIMUM:
        has = system_tools.dotted(found.headers)
        wrong.append(f"Vulkan's headers are too old: {has}, needed is {needed}")
    if found.glslc is None:
        wrong.append("the shader compiler glslc was not found")
    if not found.loader:
        wrong.append("Vulkan's loader (libvulkan.so) was not found")
    if not found.spirv:
        wrong.append("SPIRV-Headers were not found")
    if not wrong:
        return None
    what = f"the build for Vulkan needs more of the system: {'; '.join(wrong)}.\n"
    name, number = release.get("ID", ""), numbers(release.get("VERSION_ID", ""))
    since, first = FIRST_RELEASE.get(name, ((), ""))
    if number and number < since:
        title = release.get("PRETTY_NAME", name)
        return f"{what}{title} has only older packages; {first} has newer ones.\n{HOW_ELSE}"
    packages = system_tools.TOOLS["Vulkan shader compiler (glslc)"].packages
    advice = system_tools.install_line([packages], system)
    return f"{what}{advice}\nWhere these are too old: {HOW_ELSE}"


def look(cmake_args: str = "") -> Found:
    """What is there: in the system, in $VULKAN_SDK, or named to CMake."""
    named = system_tools.cmake_settings(cmake_args)
    sdk = os.environ.get("VULKAN_SDK", "")
    roots = [Path(root) for root in (sdk, "/usr", "/usr/local") if root]
    roots += [Path(p) for p in os.environ.get("CMAKE_PREFIX_PATH", "").split(os.pathsep) if p]
    roots += [Path(p) for p in named.get("CMAKE_PREFIX_PATH", "").split(";") if p]
    path = os.pathsep.join([*(f"{root}/bin" for root in roots), os.environ.get("PATH", "")])
    includes = [root / "include" for root in roots]
    if "Vulkan_INCLUDE_DIR" in named:
        includes.insert(0, Path(named["Vulkan_INCLUDE_DIR"]))
    return Found(
        headers=header_version(includes),
        glslc=named.get("Vulkan_GLSLC_EXECUTABLE") or shutil.which("glslc", path=path),
        loader="Vulkan_LIBRARY" in named or _any(roots, "libvulkan.so"),
        spirv="SPIRV-Headers_DIR" in named or _any(roots, "cmake/SPIRV-Headers"),
    )


def _any(roots: list[Path], name: str) -> bool:
    """Whether one of these folders has it where libraries and CMake's files are."""
    places = ("lib", "lib64", "lib/*", "share")
    return any(True for root in roots for place in places for _ in root.glob(f"{place}/{name}"))


def header_version(folders: list[Path]) -> tuple[int, ...] | None:
    """Of the headers that the C++ compiler would take; None where it finds none."""
    compiler = system_tools.find(system_tools.TOOLS["C++ compiler"])
    if compiler is None:
        return None
    includes = [f"-I{folder}" for folder in folders if folder.is_dir()]
    command = [compiler, "-dM", "-E", "-x", "c++", *includes, "-"]
    ended = subprocess.run(command, input=PROBE, capture_output=True, text=True)
    return macro_version(ended.stdout) if ended.returncode == 0 else None


def macro_version(macros: str) -> tuple[int, ...] | None:
    """From the compiler's list of macros: `#define VK_HEADER_VERSION 239` and
    `#define VK_HEADER_VERSION_COMPLETE VK_MAKE_API_VERSION(0, 1, 3, VK_HEADER_VERSION)`."""
    found = {name: numbers(text) for name, text in HAS.findall(macros)}
    patch, complete = found.get("VK_HEADER_VERSION"), found.get("VK_HEADER_VERSION_COMPLETE")
    # Four numbers since 1.2.175: the variant before them.
    return (*complete[-2:], *patch) if patch and complete else None


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))


def os_release(text: str) -> dict[str, str]:
    """The fields of /etc/os-release."""
    lines = re.findall(r"^(\w+)=[\"']?([^\"'\n]*)", text, re.MULTILINE)
    return dict(lines)
