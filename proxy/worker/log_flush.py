"""llama.cpp's log, written before the process is gone.

It is written by a thread of its own, which dies with the process, and with it what led to the end:
which device had no room, which machine could not be found, what is wrong with a template.
"""

import ctypes as c
import os
import threading
from typing import Final

from proxy.worker.llama import LlamaLibrary

# Whoever is to read it may not: then it is lost.
FLUSH_S: Final = 2.0

_Callback = c.CFUNCTYPE(None, c.c_char_p)
_kept: list[object] = []  # what C has a pointer to


def write_log(llama: LlamaLibrary) -> None:
    """Have all written that was said until now. Has no effect where a build's log cannot be written
    by others."""
    if None in (llama.log, llama.log_flush):
        return
    # On a thread, since it may wait for ever.
    writing = threading.Thread(target=lambda: llama.log_flush(llama.log()), daemon=True)
    writing.start()
    writing.join(FLUSH_S)


def write_log_before_abort(llama: LlamaLibrary) -> None:
    """The same where llama.cpp gives up, which it does by aborting, wherever it is."""
    if llama.set_abort_callback is None:
        return

    def aborts(why: bytes) -> None:
        write_log(llama)
        os.write(2, why + b"\n")

    callback = _Callback(aborts)
    _kept.append(callback)
    llama.set_abort_callback(callback)
