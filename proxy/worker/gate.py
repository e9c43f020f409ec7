"""The step gate from Python: hold the decode thread between two steps, also while the server is
idle.

Counterpart: stepgate.c, which is the same library loaded globally.
"""

import ctypes as c
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from proxy.errors import reason_of
from proxy.worker import _stepgate, releases
from proxy.worker.libraries import LlamaError
from proxy.worker.llama import MEMORY_BREAKDOWN, TENSOR_MAP, LlamaLibrary

# Busy servers come to the gate by themselves, so give them this long before an idle one is woken.
STEP_WAIT_MS = 15
LOOK_EVERY_MS = 500
# One step may be a whole batch of a long prompt on a slow CPU. A server that does not come within
# this time hangs, as in a driver.
HOLD_TIMEOUT_S = 600.0
MAX_CONTEXTS = 16
MAX_BUFFER_TYPES = 32
MANY_TENSORS = 4096  # more are found at a second look
NO_MODEL = "llama-server has no model loaded at the moment"
# The functions of llama.cpp's in whose place ours are. A step is one of the first: older ones have
# another than newer ones, and some both.
STEPS = ("llama_process", "llama_decode", "llama_encode")
OTHERS = ("ggml_time_ms", "llama_free", "llama_model_free")
INIT = "llama_init_from_model"  # which only an expert cache needs
# server_queue::start_loop(int64_t)
TASK_LOOP = "_ZN12server_queue10start_loopEl"
_AT_STEP, _ANYWHERE, _IN_LOOP = 1, 2, 3


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
        self._tensor_map = llama.address(TENSOR_MAP)
        self._kept: tuple[object, ...] = ()  # what C calls must not be collected
        try:
            library.gate_steps.restype = c.c_long
            library.gate_wait.argtypes = (c.c_long,)
            library.gate_watch.argtypes = (c.c_void_p,)
            library.gate_watched.restype = c.c_void_p
            library.gate_pass.argtypes = ()
            library.gate_loop.argtypes = (c.c_void_p,)
            library.gate_install.argtypes = (c.c_void_p,) * (len(STEPS + OTHERS) + 1)
        except AttributeError as error:
            raise LlamaError(f"the step gate has to be built anew (make setup): {error}") from error
        real = {name: llama.address(name) for name in STEPS + OTHERS}
        if why := releases.why_other_batch(real["llama_decode"], llama.address("llama_batch_init")):
            raise LlamaError(why)
        if library.gate_install(*real.values(), llama.address(INIT)) != 0:
            lacking = [name for name in OTHERS if real[name] is None] or STEPS
            raise LlamaError(
                f"this llama.cpp lacks {', '.join(lacking)}: there is nowhere to put the step gate"
            )
        task_loop = llama.address(TASK_LOOP)
        # Whether one that stops, having started, is surely loaded.
        self.knows_loop = task_loop is not None
        library.gate_loop(task_loop)

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

    # --- models and contexts that are being made ---

    def tensors(self, model: int) -> list[int] | None:
        """The addresses of a model's tensors; None where this build does not tell."""
        if self._tensor_map is None:
            return None
        count = room = 0
        found: c.Array[c.c_void_p] = (c.c_void_p * 0)()
        while count > room or not room:
            room = max(count, MANY_TENSORS)
            found = (c.c_void_p * room)()
            count = self._library.gate_tensors(
                c.c_void_p(self._tensor_map), c.c_void_p(model), found, room
            )
        return [address for address in found[:count] if address]

    def contexts_by(
        self,
        begins: Callable[[int], None],
        ends: Callable[[int | None], None],
        goes: Callable[[int], None],
    ) -> None:
        """Have `begins` called with the model before each context is made, `ends` with the context,
        None where there is none, afterwards, and `goes` with a model before it is freed: on
        llama-server's thread. To be said before that starts."""
        kind = c.CFUNCTYPE(None, c.c_void_p)
        self._kept = kind(begins), kind(ends), kind(goes)
        self._library.gate_contexts_by(*self._kept)

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

    def stop_first(self) -> None:
        """From now on a server that starts stops where its task loop begins, which it does when its
        model is loaded: there `hold` has it at once, and nobody has to wake it. Until `go_on`.

        Where it is not known which function that is, it stops also before, and has to `pass_by`."""
        self._library.gate_want(_IN_LOOP)

    def stopped_within(self, seconds: float) -> bool:
        """Whether it has stopped; waits so long."""
        return bool(self._library.gate_wait(int(seconds * 1000)))

    def pass_by(self) -> None:
        """It has stopped too early: have it go on to the next such place."""
        self._library.gate_pass()

    def go_on(self) -> None:
        """Nobody wants it to stop any more."""
        self._library.gate_open()

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
