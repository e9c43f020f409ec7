"""A worker before it has a model: with all that each of them needs, and nothing of any.

Libraries are opened and nothing of them is called: no device is looked for, so that none of its
memory is taken, no thread begins, and what comes later can be confined as if it came first.
"""

import gc
import os
import sys
from pathlib import Path

import msgspec

from proxy.engine.order import TAKEN, WAITS, Order
from proxy.worker.gate import preload
from proxy.worker.libraries import LlamaError
from proxy.worker.llama import LlamaLibrary
from proxy.worker.server import NO_LIVE_MOVES

PIECE_BYTES = 1 << 16


def wait_for_order(libdir: Path) -> tuple[list[str], LlamaLibrary]:
    """Returns the arguments to go on with, and the libraries, which are to look for devices yet.
    Ends the process where none will come, and where waiting has no use."""
    try:
        if not os.environ.get(NO_LIVE_MOVES):
            preload()
        llama = LlamaLibrary(libdir, None)
    except (LlamaError, OSError) as error:
        sys.exit(f"worker: {error}")
    if (threads := len(os.listdir("/proc/self/task"))) > 1:
        # Who has threads cannot be confined any more.
        sys.exit(f"worker: {threads} threads run already in what these libraries load")
    # What is here now stays: nobody has to look through it while a model is loaded.
    gc.collect()
    gc.freeze()
    _say(WAITS)
    line = _line()
    if not line:
        sys.exit(0)
    order = msgspec.json.decode(line, type=Order)
    _say(TAKEN)
    os.environ.update(order.env)
    return order.arguments, llama


def _line() -> bytes:
    """One line of standard input, and no byte behind it; nothing where that has ended. Blocks."""
    line = bytearray()
    while not line.endswith(b"\n"):
        piece = os.read(0, PIECE_BYTES)
        if not piece:
            return b""
        line += piece
    return bytes(line)


def _say(what: str) -> None:
    os.write(1, what.encode() + b"\n")
