"""What a build that failed was missing, in a line, from all that CMake and the compilers said."""

import re
from collections.abc import Mapping

from system_tools import TOOLS

# By the GPU that was built for: what CMake says, and what that means.
MISSING = {
    "cuda": (
        r"nvcc|CUDA Toolkit not found|Could NOT find CUDAToolkit|No CMAKE_CUDA_COMPILER|CUDACXX",
        "the CUDA toolkit was not found, or not all of it",
    ),
    "vulkan": (
        r"Could NOT find Vulkan|provided by \"(SPIRV-Headers|Vulkan)",
        "Vulkan's headers, loader or shader compiler were not found",
    ),
    "rocm": (
        r"provided by \"(hip|hipblas|rocblas)\"|Could NOT find HIP|ROCm root",
        "ROCm's HIP, hipBLAS or rocBLAS were not found",
    ),
}
TOOL = {
    "cuda": "CUDA compiler (nvcc)",
    "vulkan": "Vulkan shader compiler (glslc)",
    "rocm": "ROCm (hipconfig)",
}
HEADER = re.compile(r"fatal error: '?((?:vulkan|spirv|cuda|cublas|hip|rocblas)[\w/.-]*)'?[:  ]")
# What is to be done about others, by what is said of them.
KNOWN = (
    (
        re.compile(r"unsupported GNU version! gcc versions later than (\d+)"),
        "this nvcc takes no gcc newer than {0}: install that one, and "
        "CUDAHOSTCXX=g++-{0} make setup GPU=cuda",
    ),
    (
        re.compile(r"Unsupported gpu architecture '(\w+)'"),
        "this nvcc does not know the card ({0}): install a newer CUDA toolkit, or name another "
        "architecture by CMAKE_ARGS=-DCMAKE_CUDA_ARCHITECTURES=...",
    ),
    (
        re.compile(r"CUDA_ARCHITECTURES is set to \"native\", but no"),
        "no card is seen in this machine to build for: name one's architecture, as by "
        "CMAKE_ARGS=-DCMAKE_CUDA_ARCHITECTURES=86 make setup GPU=cuda",
    ),
    (re.compile(r"No space left on device"), "the disk is full; a build takes some GB"),
    (
        re.compile(r"Killed signal terminated program|\bKilled\b.*\bcc1plus"),
        "a compiler was ended as memory ran out: CMAKE_BUILD_PARALLEL_LEVEL=1 make setup",
    ),
)
# CMake's first words of an error; pip may have put two spaces before each of its lines.
SENTENCE = re.compile(r"^ *CMake Error[^\n]*:\n((?: *\n| {2,}[^\n]+\n)+)", re.MULTILINE)
ENDS = re.compile(r"Call Stack|-- Configuring incomplete|CMake Error")
LONGEST = 300


def cause(output: str, gpu: str) -> tuple[str, Mapping[str, str]] | None:
    """What is wrong, and the packages that mend it by system, if any; None where nobody knows.
    `gpu`: what was built for."""
    for pattern, text in KNOWN:
        if match := pattern.search(output):
            return text.format(*match.groups()), {}
    errors = [" ".join(ENDS.split(found)[0].split()) for found in SENTENCE.findall(output)]
    packages = TOOLS[TOOL[gpu]].packages if gpu in TOOL else {}
    if gpu in MISSING and any(re.search(MISSING[gpu][0], error) for error in errors):
        return MISSING[gpu][1], packages
    if header := HEADER.search(output):
        return f"{header[1]} was not found", packages
    return (f"CMake says: {errors[0][:LONGEST]}", {}) if errors else None
