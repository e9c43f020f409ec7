"""What a worker keeps of what it may do: to write into its own folder and where its drivers have
to, to connect to its RPC servers, and to read.

Whoever takes over a worker, by a model file or a request that llama.cpp reads wrongly, has no more.
"""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Final

from proxy.worker import landlock
from proxy.worker.landlock import CHANGE, OVERWRITE, Fs, Net, Scope

# What may be opened for writing: nodes of devices, whose drivers are in this process.
DEVICES: Final = (
    *("/dev/null", "/dev/zero", "/dev/full"),
    *("/dev/nvidia*", "/dev/dri", "/dev/kfd", "/dev/dxg", "/dev/accel", "/dev/mtgpu*"),
    *("/dev/davinci*", "/dev/devmm_svm", "/dev/hisi_hdc", "/dev/udmabuf", "/dev/dma_heap"),
    "/dev/infiniband",  # RPC servers by RDMA
    "/proc/self/task",  # names of threads
)
# Memory that drivers share, and the pipes of NVIDIA's MPS.
SHARED: Final = ("/dev/shm", "/tmp/nvidia-mps")
# Where drivers keep compiled kernels: by the user's word, and below ~ and ~/.cache. Not all of
# ~/.cache: other programs run what they find in their parts of it.
CACHE_VARIABLES: Final = (
    *("CUDA_CACHE_PATH", "__GL_SHADER_DISK_CACHE_PATH", "CUDA_MPS_PIPE_DIRECTORY"),
    *("MESA_SHADER_CACHE_DIR", "MESA_GLSL_CACHE_DIR", "AMD_COMGR_CACHE_DIR"),
    *("NEO_CACHE_DIR", "SYCL_CACHE_DIR", "POCL_CACHE_DIR", "GGML_OPENCL_KERNEL_CACHE_DIR"),
)
_INTEL: Final = (".cache/neo_compiler_cache", ".cache/libsycl_cache", ".cache/pocl")
CACHES: Final[Mapping[str, tuple[str, ...]]] = {
    "cuda": (".nv",),
    "hip": (".cache/comgr",),
    "vulkan": (
        *(".nv", ".cache/nvidia"),
        *(".cache/mesa_shader_cache", ".cache/mesa_shader_cache_db"),
    ),
    "sycl": _INTEL,
    "opencl": _INTEL,
}
# Whose are made only where its driver is.
NVIDIA_CACHES: Final = frozenset((".nv", "nvidia"))
NVIDIA_CONTROL: Final = Path("/dev/nvidiactl")
# Conversations that the proxy has it save; in a policy's own args it would be unsafe.
SAVED: Final = "--slot-save-path"
# It reads images and videos of some kinds with these, which it looks for in the PATH.
MEDIA_PROGRAMS: Final = ("ffmpeg", "ffprobe")
# NVIDIA's driver starts this where its device of unified memory is not there yet, which somebody
# who is confined cannot.
NVIDIA_UVM: Final = Path("/dev/nvidia-uvm")
NVIDIA_MODPROBE: Final = ("nvidia-modprobe", "-u", "-c=0")
MODPROBE_S = 30.0


@dataclass(frozen=True, slots=True)
class Needs:
    """What a worker needs beyond reading. Of `folders` and `caches` it changes all that is in them,
    of `files` only what they hold. Caches are made where there are none."""

    folders: tuple[Path, ...]
    files: tuple[Path, ...]
    ports: tuple[int, ...]
    programs: bool
    caches: tuple[Path, ...] = ()


def needs_of(
    folder: Path, arguments: Sequence[str], backends: Collection[str], env: Mapping[str, str]
) -> Needs:
    """`folder` is the worker's own, `arguments` are llama-server's, `backends` those of ggml that
    there are."""
    media = not {"--mmproj", "-mm"}.isdisjoint(arguments)
    return Needs(
        # The proxy has made its own. Where they are gone, so is the proxy, and nobody would remove
        # others.
        folders=(folder, *_saved(arguments), *map(Path, SHARED)),
        files=tuple(Path(path) for pattern in DEVICES for path in sorted(glob(pattern))),
        ports=tuple(_ports(arguments)),
        programs=media and any(shutil.which(x, path=env.get("PATH")) for x in MEDIA_PROGRAMS),
        caches=tuple(_caches(backends, env)),
    )


def confine(needs: Needs, *, find_version: Callable[[], int] = landlock.version) -> str:
    """Give up all else, for this thread and those that it starts. Returns what that comes to, for
    people: "files, programs, tcp, signals", or why there is nothing of it."""
    try:
        version = find_version()
        threads = len(os.listdir("/proc/self/task"))
        if threads > 1:
            return f"no: {threads} threads ran already"
        landlock.restrict(
            version,
            fs=CHANGE | Fs.MAKE_CHAR | Fs.MAKE_BLOCK | (Fs(0) if needs.programs else Fs.EXECUTE),
            net=Net.BIND_TCP | Net.CONNECT_TCP,
            scope=Scope.ABSTRACT_UNIX_SOCKET | Scope.SIGNAL,
            paths=(
                *((folder, CHANGE) for folder in (*needs.folders, *needs.caches)),
                *((file, OVERWRITE) for file in needs.files),
            ),
            ports=needs.ports,
        )
    except OSError as error:
        return f"no: {_why(error)}"
    return level(version, programs=needs.programs)


def level(version: int, *, programs: bool) -> str:
    """What this version of Landlock keeps a worker from."""
    kept = [
        "files" if version >= 3 else "files (but for cutting them short)",
        *(() if programs else ("programs",)),
        *(("tcp",) if version >= 4 else ()),
        *(("signals",) if version >= 6 else ()),
    ]
    return ", ".join(kept)


def prepare(needs: Needs, backends: Collection[str]) -> None:
    """Have there what a worker that is confined could not make."""
    for folder in needs.caches:
        no_driver = folder.name in NVIDIA_CACHES and not NVIDIA_CONTROL.exists()
        if not no_driver:
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError:  # a home that is read-only, or nobody's: then there is no cache
                continue
    program = shutil.which(NVIDIA_MODPROBE[0])
    if "cuda" in backends and program and not NVIDIA_UVM.exists():
        try:
            subprocess.run(NVIDIA_MODPROBE, timeout=MODPROBE_S, check=False)
        except (OSError, subprocess.SubprocessError) as error:
            sys.stderr.write(f"worker: {NVIDIA_MODPROBE[0]}: {error}\n")


def _saved(arguments: Sequence[str]) -> tuple[Path, ...]:
    if SAVED not in arguments:
        return ()
    return (Path(arguments[arguments.index(SAVED) + 1]),)


def _caches(backends: Collection[str], env: Mapping[str, str]) -> Iterator[Path]:
    yield from (Path(env[name]) for name in CACHE_VARIABLES if env.get(name))
    home = env.get("HOME")
    below = dict.fromkeys(path for name in backends for path in CACHES.get(name, ()))
    for path in below:
        first, _, rest = path.partition("/")
        if first == ".cache" and env.get("XDG_CACHE_HOME"):
            yield Path(env["XDG_CACHE_HOME"], rest)
        elif home:
            yield Path(home, path)


def _ports(arguments: Sequence[str]) -> Iterator[int]:
    """Those of the RPC servers. Landlock knows no addresses, so it may be anybody's."""
    if "--rpc" in arguments:
        for server in arguments[arguments.index("--rpc") + 1].split(","):
            yield int(server.rpartition(":")[2])


def _why(error: OSError) -> str:
    match error.errno:
        case errno.ENOSYS:
            return "this kernel has no Landlock"
        case errno.EOPNOTSUPP:
            return "Landlock is off in this kernel (lsm= on its command line)"
    return f"the kernel refuses it: {error.strerror}"
