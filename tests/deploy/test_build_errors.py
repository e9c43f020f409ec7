"""Why a build failed, by what CMake and compilers say."""

import pytest
from build_errors import cause

NVCC = """
  -- Looking for a CUDA compiler
  CMake Error at /usr/share/cmake-3.25/Modules/CMakeDetermineCUDACompiler.cmake:180 (message):
    Failed to find nvcc.

    Compiler requires the CUDA toolkit.  Please set the CUDAToolkit_ROOT
    variable.
  Call Stack (most recent call first):
    ggml/src/ggml-cuda/CMakeLists.txt:58 (enable_language)

  -- Configuring incomplete, errors occurred!
"""
VULKAN = """CMake Error at ggml/src/ggml-vulkan/CMakeLists.txt:11 (find_package):
  Could not find a package configuration file provided by "SPIRV-Headers"
  with any of the following names:

Call Stack (most recent call first):
"""
NO_CARD = """  CMake Error at CMakeLists.txt:9 (enable_language):
    CUDA_ARCHITECTURES is set to "native", but no GPU was detected.
"""
OTHER = """CMake Error at CMakeLists.txt:2 (message):
  The sky is
  falling.
"""


@pytest.mark.parametrize(
    ("output", "gpu", "why", "package"),
    [
        (NVCC, "cuda", "the CUDA toolkit was not found", "nvidia-cuda-toolkit"),
        (VULKAN, "vulkan", "Vulkan's headers", "spirv-headers"),
        (NO_CARD, "cuda", "CMAKE_ARGS=-DCMAKE_CUDA_ARCHITECTURES=86 make setup", None),
        (OTHER, "cuda", "CMake says: The sky is falling.", None),
        (NVCC, "none", "CMake says: Failed to find nvcc. Compiler requires the CUDA", None),
        (
            "x.cpp:1:10: fatal error: vulkan/vulkan.hpp: No such",
            "vulkan",
            "vulkan.hpp was",
            "glslc",
        ),
        (
            "error: -- unsupported GNU version! gcc versions later than 13 are",
            "cuda",
            "g++-13",
            None,
        ),
        ("nvcc fatal   : Unsupported gpu architecture 'compute_120'", "cuda", "compute_120", None),
        ("fatal error: error writing: No space left on device", "none", "the disk is full", None),
        ("g++: fatal error: Killed signal terminated program cc1plus", "none", "LEVEL=1", None),
    ],
)
def test_a_cause_is_a_line_with_what_to_install(
    output: str, gpu: str, why: str, package: str | None
) -> None:
    found = cause(output, gpu)

    assert found is not None
    assert why in found[0]
    assert "\n" not in found[0]
    assert "Call Stack" not in found[0]
    assert (package is None) == (not found[1])
    assert package is None or package in found[1]["Debian/Ubuntu"]


def test_what_nobody_understands_has_no_cause() -> None:
    assert cause("x.cpp:3: error: expected ';'", "cuda") is None
