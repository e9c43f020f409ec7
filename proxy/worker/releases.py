"""What llama.cpp's releases do each in their own way, and how it is found out which way this one
has. Nothing here goes by a version: builds are patched, and versions are not always told.
"""

import ctypes as c
import mmap
import platform
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

# Where an option's name is, if llama-server has it.
_WITH_OPTIONS: Final = ("libllama-common.so", "libllama-server-impl.so")
# What takes what several threads ask of an RPC server, and sends one thing after the other.
_RPC_IN_TURN: Final = ("libggml-rpc.so", "rpc_dispatcher")
# `struct llama_batch` of llama.h, as stepgate.c has it.
BATCH_BYTES: Final = 56
_UNTOUCHED: Final = b"\xa5"
# The first release of llama-cpp-python whose llama.cpp can be built with its server in a library.
FIRST_WITH_LIBRARY: Final = "0.3.24"


def why_missing(libdir: Path, libraries: Sequence[str]) -> str:
    """What is to be done about a folder that lacks these of llama.cpp's libraries."""
    if "llama-server-impl" in libraries and "llama" not in libraries:
        return (
            f"{libdir}: no libllama-server-impl.so: this llama.cpp has its server as a program "
            "only, or was built without it. It can be built as a library from llama-cpp-python "
            f'{FIRST_WITH_LIBRARY} on; an older one can be used by engine = "command"'
        )
    return (
        f"{libdir}: no lib{libraries[0]}; build llama-cpp-python with llama-server (see "
        "deploy/README.md), or set engine.libdir to a folder that has it"
    )


def knows(libdir: Path) -> Callable[[str], bool]:
    """Says of an option whether llama-server of that folder has it, without running it."""
    return lambda option: any(_has_text(libdir / name, option) for name in _WITH_OPTIONS)


def rpc_is_for_one_thread(libdir: Path) -> bool:
    """Whether RPC devices may be used by one thread at a time only: what two of them send at once
    would be mixed, and the server break off."""
    name, text = _RPC_IN_TURN
    return (libdir / name).exists() and not _has_text(libdir / name, text, whole=False)


def _has_text(library: Path, text: str, *, whole: bool = True) -> bool:
    """Whether it is among the texts of a library, alone or as the end of another one, in whose
    place a linker may put it; not `whole`: anywhere in one."""
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(text.encode() + b"\0" * whole) >= 0


def why_other_batch(decode: int | None, batch_init: int | None) -> str | None:
    """Why batches cannot be handed on from `llama_decode`, which takes them by value: they have
    another size than stepgate.c knows. None: they can, or there is nothing to hand on."""
    if decode is None:
        return None
    if batch_init is None:
        return "this llama.cpp lacks llama_batch_init, which tells how large a batch is"
    if platform.machine() != "x86_64":  # only there is this how a struct is returned
        return None
    room = c.create_string_buffer(_UNTOUCHED * (4 * BATCH_BYTES), 4 * BATCH_BYTES)
    make = c.CFUNCTYPE(c.c_void_p, c.c_void_p, c.c_int32, c.c_int32, c.c_int32)(batch_init)
    make(c.addressof(room), 1, 0, 1)  # not freed: that takes it by value too
    size = len(room.raw.rstrip(_UNTOUCHED))
    if size == BATCH_BYTES:
        return None
    return f"struct llama_batch has {size} bytes here, {BATCH_BYTES} are expected"


def end_by_its_handler() -> None:
    """End a llama-server that has no function for it as a signal would: call the handler that it
    has set. (No thread of a worker takes that signal itself.)"""
    exchange = c.CDLL(None).signal
    exchange.restype, exchange.argtypes = c.c_void_p, (c.c_int, c.c_void_p)
    handler = exchange(signal.SIGTERM, int(signal.SIG_IGN))
    if handler and handler != int(signal.SIG_IGN):
        c.CFUNCTYPE(None, c.c_int)(handler)(signal.SIGTERM)
