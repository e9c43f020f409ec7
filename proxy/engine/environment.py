"""What of our environment the programs that we start are given. Pure.

A list of what they need, not of what they must not have: nobody knows the names of all tokens that
may be in a person's environment. What llama-server takes for options (`LLAMA_ARG_...`) is not among
it: it would change workers behind the back of whoever wrote their policies, or keep them from
serving at all (`LLAMA_API_KEY`).
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

_NAMES: Final = frozenset(
    (
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TZDIR"),
        *("TMPDIR", "TMP", "TEMP", "VIRTUAL_ENV", "CONDA_PREFIX"),
        # The loader's, and the C library's.
        *("LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH", "GLIBC_TUNABLES"),
        # Which device a driver shows, and to whom.
        *("DRI_PRIME", "ONEAPI_DEVICE_SELECTOR", "NO_COLOR", "NEO_CACHE_PERSISTENT"),
        # Ours.
        "MOE_PROXY_NO_LIVE_MOVES",
    )
)
_FAMILIES: Final = (
    *("LC_", "XDG_", "PYTHON", "MALLOC_"),
    # How many threads compute, and where.
    *("OMP_", "GOMP_", "KMP_", "OPENBLAS_", "GOTO_", "MKL_", "BLIS_"),
    # ggml's own, then its backends' and their drivers': which cards there are, caches of kernels.
    "GGML_",
    *("CUDA_", "NVIDIA_", "CUBLAS_", "CUBLASLT_", "NCCL_", "__NV_", "__GL_", "__GLX_"),
    *("VK_", "MESA_", "RADV_", "ANV_", "LP_", "GALLIUM_", "LIBGL_", "AMDVLK_"),
    *("HIP_", "ROCR_", "HSA_", "ROCM_", "ROCBLAS_", "HIPBLASLT_", "TENSILE_", "AMD_", "GPU_"),
    *("MUSA_", "MTHREADS_", "SYCL_", "ZE_", "ZES_", "UR_", "OCL_", "OPENCL_", "POCL_", "ASCEND_"),
)
# NVIDIA_API_KEY is of a family, and a key all the same.
_SECRET: Final = re.compile(
    r"(?:^|_)(?:\w*KEYS?|\w*TOKENS?|SECRETS?|PASS\w*|CREDENTIALS?|AUTH)(?:_|$)"
)
# What llama.cpp prints of its end would stand in the place of its last words.
NO_STACK_TRACES: Final = {"GGML_NO_BACKTRACE": "1"}
# What a plain llama-server would read.
_OF_LLAMA_SERVER: Final = ("LLAMA_", "MTMD_")
# A value that stands for the one of our own environment.
_OURS: Final = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")


def inherited(env: Mapping[str, str]) -> dict[str, str]:
    """What a program is given of `env`."""
    return {
        name: value
        for name, value in env.items()
        if (name in _NAMES or name.startswith(_FAMILIES)) and not _SECRET.search(name)
    }


def not_seen(env: Mapping[str, str]) -> list[str]:
    """The names in `env` of what whoever set it may expect a worker to see."""
    return sorted(name for name in env if name.startswith(_OF_LLAMA_SERVER))


def with_own(env: Mapping[str, str], own: Iterable[tuple[str, str]]) -> dict[str, str]:
    """What a program is given that has variables of its `own`, as the policies write them: a value
    of "$NAME" is that of `env`, and where there is none, the variable is left out."""
    filled = ((name, _filled_in(text, env)) for name, text in own)
    given = {name: value for name, value in filled if value is not None}
    return NO_STACK_TRACES | inherited(env) | given


def missing(env: Mapping[str, str], own: Iterable[tuple[str, str]]) -> list[str]:
    """The names of those that are left out."""
    return [name for name, text in own if _filled_in(text, env) is None]


def _filled_in(text: str, env: Mapping[str, str]) -> str | None:
    match = _OURS.fullmatch(text)
    return env.get(match[1]) if match else text
