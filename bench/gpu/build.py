"""The step `build`: llama.cpp with CUDA, and the package's step gate, for this machine."""

import os
import signal
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Sequence
from pathlib import Path

from bench.gpu.pack import SOURCE
from bench.gpu.work import OutOfTime, Settings, StepFailed
from tests.support.archive import REPOSITORY

TARGETS = ("llama-server", "ggml-rpc-server", "llama-fit-params")
# Time that a run keeps for what comes after a compiler was stopped.
MARGIN_S = 20.0


def commands(settings: Settings) -> list[list[str]]:
    """CMake's two commands; the second one goes on where it was stopped."""
    source = settings.work / "llama.cpp"
    gpu = [] if settings.cpu else ["-DGGML_CUDA=ON", f"-DCMAKE_CUDA_ARCHITECTURES={settings.arch}"]
    configure = [
        *("cmake", "-S", str(source), "-B", str(settings.build), "-DCMAKE_BUILD_TYPE=Release"),
        *("-DBUILD_SHARED_LIBS=ON", "-DGGML_RPC=ON", "-DLLAMA_BUILD_TOOLS=ON"),
        *("-DLLAMA_BUILD_SERVER=ON", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF"),
        *("-DLLAMA_BUILD_UI=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_OPENSSL=OFF"),
        # A snapshot without .git has no commit to name.
        *("-DLLAMA_BUILD_COMMIT=packed", "-DLLAMA_BUILD_NUMBER=0", *gpu),
    ]
    jobs = str(max((os.cpu_count() or 2) - 1, 1))
    make = ["cmake", "--build", str(settings.build), "--parallel", jobs, "--target", *TARGETS]
    return [configure, make]


def build(settings: Settings) -> str:
    """Returns what is there now. Raises OutOfTime, StepFailed."""
    gate = build_gate()
    if settings.cpu and settings.libdir is None and not (settings.pack / SOURCE).exists():
        return f"{gate}; llama.cpp as installed"
    source = settings.work / "llama.cpp"
    if not (source / "CMakeLists.txt").exists():
        archive = settings.pack / SOURCE
        if not archive.exists():
            raise StepFailed(f"{archive} is missing: make it with python -m bench.gpu.pack")
        settings.work.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as packed:
            packed.extractall(settings.work, filter="data")
    configure, make = commands(settings)
    log = settings.work / "build.log"
    if not (settings.build / "CMakeCache.txt").exists():
        _run(configure, log, settings.left_s() - MARGIN_S)
    _run(make, log, settings.left_s() - MARGIN_S)
    return f"{gate}; llama.cpp in {settings.build / 'bin'}"


def build_gate(folder: Path = REPOSITORY / "proxy" / "worker") -> str:
    """The gate's library beside its Python module, unless an installed or newer one is there."""
    library = folder / f"_stepgate{sysconfig.get_config_var('EXT_SUFFIX')}"
    sources = [folder / "stepgate.c", folder / "breakdown.cpp"]
    newest = max(source.stat().st_mtime for source in sources)
    if library.exists() and library.stat().st_mtime >= newest:
        return f"{library.name} is there"
    include = sysconfig.get_path("include")
    if not Path(include, "Python.h").exists():
        raise StepFailed(f"no Python.h in {include}: install Python's development headers")
    flags = ["-O2", "-fPIC", "-pthread", "-fexceptions", f"-I{include}"]
    objects = []
    for source, compiler in zip(sources, ("cc", "c++"), strict=True):
        objects.append(str(library.with_suffix(source.suffix + ".o")))
        _run([compiler, *flags, "-c", str(source), "-o", objects[-1]], None, 120)
    _run(["c++", "-shared", "-pthread", *objects, "-ldl", "-o", str(library)], None, 120)
    for name in objects:
        Path(name).unlink()
    return f"{library.name} built with {sys.version.split()[0]}"


def _run(command: Sequence[str], log: Path | None, limit_s: float) -> None:
    """Run a command of a build, with all its children within `limit_s`. Raises OutOfTime,
    StepFailed."""
    if limit_s <= 0:
        raise OutOfTime(command[0])
    output = log.open("ab") if log else subprocess.PIPE
    try:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    except FileNotFoundError:
        raise StepFailed(f"{command[0]} is not installed") from None
    try:
        words, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        raise OutOfTime("compiling") from None
    finally:
        if log:
            output.close()  # type: ignore[union-attr]
    if process.returncode:
        said = log.read_text(errors="replace")[-2000:] if log else words.decode(errors="replace")
        raise StepFailed(f"{' '.join(command[:4])} ... failed:\n{said}")
