"""The step gate from Python: hold the decode thread between two steps, also while the server is
idle.

Counterpart: stepgate.c, which is the same library loaded globally.
"""

import ctypes as c
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from proxy.worker import _stepgate
from proxy.worker.llama import MEMORY_BREAKDOWN, LlamaError, LlamaLibrary

# Busy servers come to the gate by themselves, so give them this long before an idle one is woken.
STEP_WAIT_MS = 15
WAKE_EVERY_MS = 500
MAX_CONTEXTS = 16
MAX_BUFFER_TYPES = 32
_AT_STEP, _ANYWHERE = 1, 2


def preload() -> c.CDLL:
    """Load the gate's library globally. Must happen before any of llama.cpp's libraries is
    loaded."""
    return c.CDLL(_stepgate.__file__, mode=c.RTLD_GLOBAL)


class HeldGate:
    """A held gate: the contexts that may be worked on, and since when it is held."""

    def __init__(self, contexts: list[int]) -> None:
        self.contexts = contexts
        self.since = time.perf_counter()

    def held_s(self) -> float:
        return time.perf_counter() - self.since


class Gate:
    """`with gate.hold() as closed:` runs the block while no decode step runs. For one thread at a
    time."""

    def __init__(self, library: c.CDLL, llama: LlamaLibrary, server_socket: str) -> None:
        self._library = library
        self._server_socket = server_socket
        self._breakdown = llama.address(MEMORY_BREAKDOWN)
        library.gate_steps.restype = c.c_long
        library.gate_wait.argtypes = (c.c_long,)
        library.gate_install.argtypes = (c.c_void_p,) * 3
        real = [llama.address(name) for name in ("llama_process", "ggml_time_ms", "llama_free")]
        if library.gate_install(*real) != 0:
            raise LlamaError(
                "this llama.cpp has no llama_process(): there is nowhere to put the step gate"
            )

    @property
    def steps(self) -> int:
        """How many decode steps have come through. 0 after a first answer: the gate is not in the
        way."""
        return int(self._library.gate_steps())

    def contexts(self) -> list[int]:
        """The contexts that have stepped so far, oldest first."""
        found = (c.c_void_p * MAX_CONTEXTS)()
        count = self._library.gate_contexts(found, MAX_CONTEXTS)
        return [address for address in found[:count] if address]

    def breakdown(self, context: int) -> dict[int, tuple[int, int, int]]:
        """Buffer type -> bytes of model, context (KV) and compute that this context uses there."""
        if self._breakdown is None:
            return {}
        types = (c.c_void_p * MAX_BUFFER_TYPES)()
        held = (c.c_size_t * (3 * MAX_BUFFER_TYPES))()
        rows = self._library.gate_breakdown(
            c.c_void_p(self._breakdown), c.c_void_p(context), types, held, MAX_BUFFER_TYPES
        )
        return {
            address: (held[3 * row], held[3 * row + 1], held[3 * row + 2])
            for row, address in enumerate(types[:rows])
            if address
        }

    @contextmanager
    def hold(self) -> Iterator[HeldGate]:
        """Wait for the end of the step that runs, if one does, and keep the next one from
        starting."""
        wakers: list[socket.socket] = []
        try:
            self._library.gate_want(_AT_STEP)
            if not self._library.gate_wait(STEP_WAIT_MS):
                self._library.gate_want(_ANYWHERE)
                wakers.append(self._wake())
                while not self._library.gate_wait(WAKE_EVERY_MS):
                    wakers.append(self._wake())
            yield HeldGate(self.contexts())
        finally:
            self._library.gate_open()
            for waker in wakers:
                waker.close()

    def _wake(self) -> socket.socket:
        """Send the server's task loop round once, by the cheapest task that needs no slot.

        The answer is of no interest, but the socket stays open until the gate does: closing it is a
        cancel.
        """
        waker = socket.socket(socket.AF_UNIX)
        waker.settimeout(1)
        waker.connect(self._server_socket)
        waker.sendall(b"GET /lora-adapters HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n")
        return waker
