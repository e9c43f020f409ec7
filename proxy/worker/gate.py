"""The step gate from Python: hold the decode thread between two steps, also while the server is
idle.

Counterpart: stepgate.c, which is the same library loaded globally.
"""

import ctypes as c
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from proxy.errors import reason_of
from proxy.worker import _stepgate
from proxy.worker.llama import MEMORY_BREAKDOWN, LlamaError, LlamaLibrary

# Busy servers come to the gate by themselves, so give them this long before an idle one is woken.
STEP_WAIT_MS = 15
LOOK_EVERY_MS = 500
# One step may be a whole batch of a long prompt on a slow CPU. A server that does not come within
# this time hangs, as in a driver.
HOLD_TIMEOUT_S = 600.0
MAX_CONTEXTS = 16
MAX_BUFFER_TYPES = 32
NO_MODEL = "llama-server has no model loaded at the moment"
# The functions of llama.cpp's in whose place ours are.
GATED = ("llama_process", "ggml_time_ms", "llama_free", "llama_model_free")
_AT_STEP, _ANYWHERE = 1, 2


def preload() -> c.CDLL:
    """Load the gate's library globally. Must happen before any of llama.cpp's libraries is
    loaded."""
    return c.CDLL(_stepgate.__file__, mode=c.RTLD_GLOBAL)


class HeldGate:
    """A held gate: the contexts that may be worked on, at least one, and since when it is held."""

    def __init__(self, contexts: list[int]) -> None:
        self.contexts = contexts
        self.since = time.perf_counter()

    def held_s(self) -> float:
        return time.perf_counter() - self.since


class Gate:
    """`with gate.hold() as held_gate:` runs the block while no decode step runs. For one thread at
    a time."""

    def __init__(
        self,
        library: c.CDLL,
        llama: LlamaLibrary,
        server_socket: str,
        *,
        timeout_s: float = HOLD_TIMEOUT_S,
    ) -> None:
        """Raises LlamaError where this llama.cpp has nowhere to put the gate, or the gate is not
        the one of this code."""
        self._library = library
        self._server_socket = server_socket
        self._timeout_s = timeout_s
        self._breakdown = llama.address(MEMORY_BREAKDOWN)
        try:
            library.gate_steps.restype = c.c_long
            library.gate_wait.argtypes = (c.c_long,)
            library.gate_watch.argtypes = (c.c_void_p,)
            library.gate_watched.restype = c.c_void_p
            library.gate_install.argtypes = (c.c_void_p,) * len(GATED)
        except AttributeError as error:
            raise LlamaError(f"the step gate has to be built anew (make setup): {error}") from error
        if library.gate_install(*map(llama.address, GATED)) != 0:
            raise LlamaError(
                f"this llama.cpp lacks one of {', '.join(GATED)}: there is nowhere to put the step "
                "gate"
            )

    @property
    def steps(self) -> int:
        """How many decode steps have come through. 0 after a first answer: the gate is not in the
        way."""
        return int(self._library.gate_steps())

    @property
    def stepping(self) -> bool:
        """Whether a decode step runs now."""
        return bool(self._library.gate_stepping())

    def contexts(self) -> list[int]:
        """The contexts that have stepped so far and are still there, oldest first."""
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

    # --- the model whose tensors are known ---

    def watch(self, model: int) -> None:
        """From now on `watched` says whether this model has been freed."""
        self._library.gate_watch(model)

    @property
    def watched(self) -> int | None:
        """The model that is watched. None: it was freed, and all pointers into it are stale, even
        where a new one is at the same address."""
        model: int | None = self._library.gate_watched()
        return model

    @contextmanager
    def pinned(self) -> Iterator[bool]:
        """Within the block the watched model is not freed: whoever wants to waits for its end, so
        look at `model_leaves` now and then. Gives False where it is gone, or about to go."""
        try:
            yield bool(self._library.gate_pin())
        finally:
            self._library.gate_unpin()

    @property
    def model_leaves(self) -> bool:
        """Whether llama-server waits for the end of `pinned`, to free the model."""
        return bool(self._library.gate_model_leaves())

    # --- holding it ---

    @contextmanager
    def hold(self) -> Iterator[HeldGate]:
        """Wait for the end of the step that runs, if one does, and keep the next one from starting.

        Raises LlamaError where no model is loaded, and where the server does not come to the gate
        in time: then it hangs, and nothing is held.
        """
        waker = _Waker(self._server_socket)
        try:
            self._until_parked(waker)
            yield HeldGate(self._some_contexts())
        finally:
            self._library.gate_open()
            waker.close()

    def _until_parked(self, waker: "_Waker") -> None:
        deadline = time.monotonic() + self._timeout_s
        # One that sleeps would be woken for nothing, and load its model.
        self._some_contexts()
        self._library.gate_want(_AT_STEP)
        if self._library.gate_wait(STEP_WAIT_MS):
            return
        self._library.gate_want(_ANYWHERE)
        while True:
            waker.send()
            left_s = deadline - time.monotonic()
            if self._library.gate_wait(max(0, min(LOOK_EVERY_MS, int(left_s * 1000)))):
                return
            self._some_contexts()
            if left_s <= 0:
                why = f" ({waker.problem})" if waker.problem else ""
                raise LlamaError(
                    f"llama-server has not come to the step gate for {self._timeout_s:g} s{why}"
                )

    def _some_contexts(self) -> list[int]:
        contexts = self.contexts()
        if not contexts:
            raise LlamaError(NO_MODEL)
        return contexts


class _Waker:
    """Sends the server's task loop round by the cheapest task that needs no slot.

    The answer is of no interest, but a request stays open until the gate does: closing it is a
    cancel. At most one is, since each has one of the server's HTTP threads to itself.
    """

    def __init__(self, server_socket: str) -> None:
        self._server_socket = server_socket
        self._request: socket.socket | None = None
        self.problem = ""  # why the last one could not be sent

    def send(self) -> None:
        """Have one request under way: the one that there is, or a new one where that has been
        answered and yet nobody came."""
        if self._request is not None:
            if not _is_answered(self._request):
                return
            self.close()
        request = socket.socket(socket.AF_UNIX)
        try:
            request.settimeout(1)
            request.connect(self._server_socket)
            request.sendall(
                b"GET /lora-adapters HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n"
            )
            request.setblocking(False)
        except OSError as error:  # too many wait there: then it is busy, and comes by itself
            request.close()
            self.problem = f"it cannot be woken: {reason_of(error)}"
        else:
            self._request, self.problem = request, ""

    def close(self) -> None:
        if self._request is not None:
            self._request.close()
            self._request = None


def _is_answered(request: socket.socket) -> bool:
    try:
        request.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
