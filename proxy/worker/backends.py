"""ggml's backends that are files of their own: those of builds with dynamic backends, and those
that the policies name (`engine.backends`). Whether they go with this ggml, and how they join it.
"""

import ctypes as c
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from proxy.errors import reason_of

# What every backend's file has, unless it can only be linked to.
INIT: Final = "ggml_backend_init"
SCORE: Final = "ggml_backend_score"  # of several for one kind of device; 0: none of it runs here
VERSION: Final = "ggml_version"
BASE: Final = "libggml-base.so"
UNKNOWN: Final = "of before 0.9.0, which does not tell its version"
_NAME: Final = re.compile(r"libggml-([a-z0-9]+)[-.]")
# In a process of its own: it is another ggml, which this one must not meet.
_ASK: Final = (
    "import ctypes, sys\n"
    f"f = getattr(ctypes.CDLL(sys.argv[1]), {VERSION!r}, None)\n"
    "if f is not None:\n"
    "    f.restype = ctypes.c_char_p\n"
    "    print(f().decode())"
)
ASK_S: Final = 30.0


class BackendRefused(RuntimeError):
    """A backend's file cannot be used, and why: the message names it."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """A backend's file, and the version of the ggml that it was made with. None: nobody knows,
    as none lies beside it."""

    file: Path
    ggml: str | None = None


def plugins(files: Iterable[Path], libdir: Path) -> list[Plugin]:
    """The files with what can be found out about them. Starts processes. Raises BackendRefused."""
    return [Plugin(file, _made_with(file, libdir)) for file in files]


def kinds(files: Iterable[Path]) -> Iterator[str]:
    """What they are for: "vulkan" of libggml-vulkan.so, as far as their names tell."""
    return (match[1] for file in files if (match := _NAME.match(file.name)))


def why_unfit(ours: str | None, theirs: str | None) -> str | None:
    """Why a backend of a ggml of version `theirs` does not go with `ours`: None where it does, or
    nobody knows. Structs and operations change with the first two numbers."""
    if theirs is None or ours is None or theirs.split(".")[:2] == ours.split(".")[:2]:
        return None
    return f"it was made with ggml {theirs}, llama.cpp's libraries here have ggml {ours}"


def _made_with(file: Path, libdir: Path) -> str | None:
    base = file.parent / BASE
    if not base.exists() or file.parent.samefile(libdir) or base.samefile(libdir / BASE):
        return None
    command = (sys.executable, "-I", "-c", _ASK, str(base))
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=ASK_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or "").strip().splitlines()
        why = said[-1] if said else str(error)
        raise BackendRefused(
            f"the backend {file} is not used: {base}, beside it, does not tell its version: {why}"
        ) from error
    return asked.stdout.strip() or UNKNOWN


class Backends:
    """Lets backends join the ggml of this process."""

    def __init__(self, base: c.CDLL, ggml: c.CDLL) -> None:
        self._base, self._ggml = base, ggml
        # What C has given us, and what is in use of it, stays as long as the process.
        self._loaded: list[c.CDLL] = []

    @property
    def version(self) -> str | None:
        tell = getattr(self._base, VERSION, None)
        if tell is None:
            return None
        tell.restype = c.c_char_p
        return str(tell().decode())

    def load_folder(self, libdir: Path) -> None:
        """Those in llama.cpp's own folder, by llama.cpp's own rules: of several for one kind of
        device the best. It says nothing of those that do not fit."""
        load = getattr(self._ggml, "ggml_backend_load_all_from_path", None)
        if load is not None:
            load.restype, load.argtypes = None, (c.c_char_p,)
            load(str(libdir).encode())

    @property
    def cpu(self) -> bool:
        """Whether there is one that computes on the CPU, without which nothing works."""
        return self._interface() is not None

    def linked(self, plugin: Plugin) -> bool:
        """Whether it is a library of ggml's that is linked to, so that it has joined already."""
        try:
            return not hasattr(c.CDLL(str(plugin.file)), INIT)
        except OSError:
            return False

    def load(self, plugin: Plugin) -> int:
        """One file. Returns how many devices it has. Raises BackendRefused."""

        def refused(why: str) -> BackendRefused:
            return BackendRefused(f"the backend {plugin.file} is not used: {why}")

        if why := why_unfit(self.version or UNKNOWN, plugin.ggml):
            raise refused(why)
        try:
            library = c.CDLL(str(plugin.file))
        except OSError as error:
            raise refused(str(error) if error.errno is None else reason_of(error)) from error
        if not hasattr(library, INIT):
            raise refused(f"it is no backend of its own: it has no {INIT}")
        score = getattr(library, SCORE, None)
        if score is not None and score() == 0:
            raise refused("it needs another processor than this machine's")
        registered = self._call(library, INIT)
        if not registered:
            raise refused("its driver does not start")
        ours, theirs = self._interface(), c.c_int.from_address(registered).value
        if ours is not None and theirs != ours:
            raise refused(
                f"its backend interface has version {theirs}, that of llama.cpp's libraries here "
                f"version {ours} (of ggml {self.version or UNKNOWN})"
            )
        self._loaded.append(library)
        self._call(self._ggml, "ggml_backend_register", registered, result=None)
        return int(self._call(self._base, "ggml_backend_reg_dev_count", registered))

    def _interface(self) -> int | None:
        """The version of the interface that ggml has here, as the CPU's backend tells it:
        `api_version` is the first member of `struct ggml_backend_reg`."""
        cpu = self._call(self._ggml, "ggml_backend_reg_by_name", b"CPU")
        return c.c_int.from_address(cpu).value if cpu else None

    @staticmethod
    def _call(library: c.CDLL, name: str, *arguments: Any, result: Any = c.c_void_p) -> Any:
        function = library[name]
        function.restype = result
        function.argtypes = [c.c_char_p if isinstance(x, bytes) else c.c_void_p for x in arguments]
        return function(*arguments) if result is None else function(*arguments) or 0


def own(libdir: Path, names: Sequence[str]) -> list[Plugin]:
    """The files of llama.cpp's own folder that are for these kinds of devices."""
    files = (libdir / f"libggml-{name}.so" for name in names)
    return [Plugin(file) for file in files if file.exists()]
