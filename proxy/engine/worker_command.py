"""How a hosted worker is started for what is to be loaded: its arguments and its environment."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from proxy.engine import installed
from proxy.engine.arguments import server_arguments, slot_arguments
from proxy.engine.environment import NO_STACK_TRACES, inherited
from proxy.engine.llama_args import unsafe_args
from proxy.engine.types import LoadOptions

LIBRARY_PATH: Final = "LD_LIBRARY_PATH"
PROGRAM: Final = (sys.executable, "-m", "proxy.worker")


def worker_arguments(
    options: LoadOptions,
    *,
    socket: Path,
    control: Path,
    slot_folder: Path | None,
    own_name: Callable[[str], str | None],
) -> list[str]:
    """What follows PROGRAM. `own_name`: what the worker calls a device; None: it has none of that
    name."""
    return [
        *("--socket", str(socket), "--control", str(control), "--repack", options.repack),
        *(("--libdir", str(options.libdir)) if options.libdir else ()),
        *(part for file in options.backends for part in ("--backend", str(file))),
        *(("--fixed-split", str(options.split)) if options.split is not None else ()),
        *(("--per-token-outputs",) if options.mode != "generation" else ()),
        *(("--dense",) if options.dense else ()),
        *(("--cache-mib", str(options.cache_mib)) if options.cache_mib else ()),
        *("--cached-layers", str(options.cached_layers)),
        *(("--unconfined", why) if (why := _why_unconfined(options)) else ()),
        *(
            part
            for name in map(own_name, options.no_attention)
            if name is not None
            for part in ("--no-attention", name)
        ),
        "--",
        *slot_arguments(options, slot_folder),
        *server_arguments(options),
    ]


def worker_environment(
    libdir: Path | None, backends: Sequence[Path], env: Mapping[str, str]
) -> dict[str, str]:
    """All variables of a worker with these libraries, but for its folder for what is temporary."""
    return inherited(env) | NO_STACK_TRACES | _found_by(libdir, backends, env)


def _found_by(
    libdir: Path | None, backends: Sequence[Path], env: Mapping[str, str]
) -> dict[str, str]:
    """A backend from elsewhere names ggml's libraries, which are to be those that its worker has,
    and not others that may lie beside it."""
    libdir = libdir or installed.folder("lib")
    if not backends or libdir is None:
        return {}
    folders = (str(libdir), *filter(None, (env.get(LIBRARY_PATH),)))
    return {LIBRARY_PATH: os.pathsep.join(folders)}


def _why_unconfined(options: LoadOptions) -> str | None:
    if not options.confine:
        return "confine = false in its policy"
    if options.unsafe_args and any(unsafe_args(options.args)):
        return "unsafe_args: what they need is not known"
    return None
