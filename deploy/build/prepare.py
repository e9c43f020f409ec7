"""Makes the environment ready: checks the system, builds llama.cpp once, installs everything.

Called by make before every target, so an environment that fits is recognised in a few milliseconds.
Uses the standard library only, because it runs before anything is installed.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 (any Python may be asked to run this)
    sys.exit(
        "moe-proxy needs Python 3.11 or newer; this is %d.%d (%s).\n"  # noqa: UP031
        "Install one (Debian/Ubuntu: python3 python3-venv; Fedora: python3; Arch: python;\n"
        "Homebrew: python@3.13) or name it: make PYTHON=/path/to/python3.13"
        % (sys.version_info[0], sys.version_info[1], sys.executable)
    )

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

import cuda_toolkit
import llama_build
import nvidia_driver
import system_tools
import vulkan_sdk
from steps import Failure, only_one, run, say

ROOT = Path(__file__).resolve().parents[2]
# What the installed environment is made from: a change in any of these means to install again.
INPUTS = (
    "pyproject.toml",
    "constraints.txt",
    "setup.py",
    "proxy/*/*.c",
    "proxy/fleet/rpc/*.c",
    "proxy/worker/*.cpp",
    "proxy/worker/*.h",
    "deploy/build/*.py",
    "deploy/build/*.cmake",
)
# What setup.py compiles, in a clone beside the sources.
COMPILED = ("worker/_stepgate", "catalog/_strings", "fleet/rpc/_handed")


@dataclass(frozen=True, slots=True)
class Target:
    """The environment to make: a clone's own (editable, with tools), or a service's."""

    venv: Path
    editable: bool

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def record(self) -> Path:
        """What was installed here last; written as the last step."""
        return self.venv / "moe-proxy-setup.json"

    @property
    def log(self) -> Path:
        """Everything that pip and the compilers said. Not in the venv, which may not exist yet."""
        return ROOT / ".cache" / "setup.log"


def main() -> int:
    args = arguments()
    # Ended from outside, we end the compilers too, as with Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    target = Target((args.install or ROOT / ".venv").absolute(), editable=args.install is None)
    target.log.parent.mkdir(exist_ok=True)
    previous = read_record(target)
    try:
        flavour = llama_build.Flavour.chosen(args.gpu, previous)
        wanted = {"inputs": fingerprint(), **flavour.record()}
        if previous != wanted or args.rebuild or not complete(target):
            with only_one(target.log.with_name("setup.lock"), "another set-up of this clone"):
                # Else the one we waited for did our work.
                if read_record(target) == previous or read_record(target) != wanted:
                    target.log.unlink(missing_ok=True)
                    prepare(target, flavour, rebuild=args.rebuild)
                    target.record.write_text(json.dumps(wanted, indent=1) + "\n")
    except Failure as failure:
        print(f"\nset-up: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nset-up: interrupted; the next make goes on from here", file=sys.stderr)
        return 130
    if args.install:
        print(installed(target, flavour))
    elif args.ready:
        print(ready(flavour, remembered=not args.gpu))
    return 0


def ready(flavour: llama_build.Flavour, *, remembered: bool) -> str:
    """What `make setup` ends with: also for what it was built, which was said some time ago."""
    others = ", ".join(f"GPU={gpu}" for gpu in llama_build.GPU_FLAGS if gpu != flavour.gpu)
    if flavour.gpu == "none":
        built = f"for the CPU and RPC devices ({others} for a card)"
    else:
        built = f"for GPU={flavour.gpu}" + (" (as the last time)" if remembered else "")
    options = f", CMAKE_ARGS={flavour.cmake_args}" if flavour.cmake_args else ""
    return f"ready {built}{options}: .venv/bin/moe-proxy"


def installed(target: Target, flavour: llama_build.Flavour, home: Path | None = None) -> str:
    """What `make install` ends with: what to do next."""
    program = target.venv / "bin" / "moe-proxy"
    own = target.venv.is_relative_to(home or Path.home()) and os.geteuid() != 0
    service = f"{program} install-service --user" if own else f"sudo {program} install-service"
    lines = [
        f"installed for {'the CPU' if flavour.gpu == 'none' else f'GPU={flavour.gpu}'}: {program}",
        f"  look at policies and models: {program} check",
        f"  have systemd run it:         {service} --socket",
    ]
    if str(program.parent) not in os.environ.get("PATH", "").split(os.pathsep):
        lines.append(f"  call it by its name alone:   export PATH={program.parent}:$PATH")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpu", default="", help=f"one of {', '.join(llama_build.GPU_FLAGS)}")
    parser.add_argument("--install", type=Path, help="a copy of its own, in this folder")
    parser.add_argument("--ready", action="store_true", help="say for what it is ready")
    parser.add_argument("--rebuild", action="store_true", help="build llama.cpp again")
    return parser.parse_args()


def prepare(target: Target, flavour: llama_build.Flavour, *, rebuild: bool) -> None:
    """All steps in order; each is skipped, or quick, where it was done before. Raises Failure."""
    os.environ["PATH"] = f"{target.venv / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    os.environ["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    cuda = choose_cuda(flavour) if flavour.builds_for("cuda") else None
    folder = ROOT / "deploy" / "build"
    build = llama_build.Build(flavour, cache=pip_cache(), include_dir=folder, cuda=cuda)
    if rebuild:
        build.forget()
    needed = ["C++ compiler", "Python headers"]
    if not build.wheel():
        needed += ["CMake", "make or ninja", *system_tools.FOR_GPU[flavour.gpu]]
    system_tools.check(needed)
    if not build.wheel():
        if flavour.builds_for("vulkan"):
            vulkan_sdk.check(flavour.cmake_args)
        if build.from_index:
            cuda_toolkit.check_host_compiler()

    make_venv(target)
    pip = [str(target.python), "-m", "pip"]
    pip_install = [*pip, "install", "--constraint", str(ROOT / "constraints.txt")]
    say("installing the build tools")
    run([*pip_install, *build_requirements()], target.log)

    llama_build.fetch_source(pip, build, target.log, link_from=ROOT / ".cache")
    build.install(target.python, target.log, fresh=rebuild)

    say("installing moe-proxy and what it needs")
    # setuptools copies whatever an earlier build left there, modules that are gone too.
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    what = ["--editable", f"{ROOT}[dev]"] if target.editable else [str(ROOT)]
    run([*pip_install, "--no-build-isolation", *what], target.log)
    if target.editable:
        install_ray(pip_install, target.log)


def install_ray(pip_install: list[str], log: Path) -> None:
    """What a fleet needs, for its tests. Not every machine has wheels of it, and none of the rest
    needs it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    what = project["optional-dependencies"]["fleet"]
    try:
        run([*pip_install, "--only-binary", ":all:", *what], log)
    except Failure:
        say("Ray is not to be had for this machine: tests of a fleet will be skipped")


def choose_cuda(flavour: llama_build.Flavour) -> cuda_toolkit.Choice:
    """Which CUDA compiler, for which cards. Asks the driver; says what it found. Raises Failure."""
    os.environ["CUDACXX"] = flavour.cudacxx  # where tools are looked for
    driver = nvidia_driver.ask()
    nvcc = cuda_toolkit.Nvcc.found()
    choice = cuda_toolkit.choose(nvcc, driver, flavour.cmake_args)
    say(cuda_toolkit.told(choice, driver))
    return choice


def make_venv(target: Target) -> None:
    """Creates the virtual environment, or keeps one whose Python and pip still start."""
    pip_works = [str(target.python), "-m", "pip", "--version"]
    if target.python.exists() and subprocess.run(pip_works, capture_output=True).returncode == 0:
        return
    if (
        target.venv.exists()
        and not (target.venv / "pyvenv.cfg").exists()
        and any(target.venv.iterdir())
    ):
        raise Failure(f"{target.venv} holds other things; name an empty or a new folder")
    say(f"making {target.venv} with Python {sys.version.split()[0]}")
    result = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(target.venv)], capture_output=True, text=True
    )
    if result.returncode != 0:
        raise Failure(
            f"could not make a virtual environment in {target.venv}:\n"
            f"{result.stdout}{result.stderr}On Debian and Ubuntu it needs the package python3-venv."
        )


def build_requirements() -> list[str]:
    """What builds llama-cpp-python and us; installed first, as builds here are not isolated."""
    return ["setuptools", "scikit-build-core"]


def pip_cache() -> Path:
    """pip's cache folder, where a build survives `make clean` and serves every clone.

    A folder in the clone if pip's cache is switched off or may not be written.
    """
    found = subprocess.run(
        [sys.executable, "-m", "pip", "cache", "dir"], capture_output=True, text=True
    )
    folder = Path(found.stdout.strip()) if found.returncode == 0 else ROOT / ".cache"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return ROOT / ".cache"
    return folder if os.access(folder, os.W_OK) else ROOT / ".cache"


def read_record(target: Target) -> dict[str, str]:
    """What the last finished set-up was made for; empty if there was none."""
    try:
        record = json.loads(target.record.read_text())
    except (OSError, ValueError):
        return {}
    return {key: str(value) for key, value in record.items()}


def fingerprint() -> str:
    """A digest over the content of all INPUTS and the Python that runs them."""
    digest = hashlib.sha256(sys.version.encode())
    for pattern in INPUTS:
        for path in sorted(ROOT.glob(pattern)):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def complete(target: Target) -> bool:
    """Whether what the last set-up made is still there (somebody may have tidied up)."""
    files = [target.venv / "bin" / "moe-proxy", llama_build.source_link(ROOT / ".cache")]
    built = not target.editable or all(any(ROOT.glob(f"proxy/{name}*.so")) for name in COMPILED)
    return built and all(file.exists() for file in files) and llama_build.installed(target.venv)


if __name__ == "__main__":
    sys.exit(main())
