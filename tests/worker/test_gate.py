"""The step gate's own library, between a server and a llama.cpp that do what is to be shown."""

import contextlib
import ctypes as c
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from proxy.worker import _stepgate
from proxy.worker.gate import LOOK_EVERY_MS, TASK_LOOP, Gate
from proxy.worker.libraries import LlamaError, default_libdir
from tests.support.guard import HANG_S

ANYWHERE = 2
# A step of context 13 fails as an allocation does in llama.cpp, and a server catches that.
SOURCE = """
#include <stdexcept>
extern "C" {
int llama_process(void *context, int, void *) {
  if (context == (void *)13) throw std::runtime_error("no room");
  return 0;
}
long ggml_time_ms(void) { return 0; }
void llama_free(void *) {}
void llama_model_free(void *) {}
void *llama_init_from_model(void *) { return nullptr; }
long task_loop(long (*now)()) { return now() + 1; }
long elsewhere(long (*now)()) { return now() + 1; }
int caught(int (*gated)(void *, int, void *), void *context) {
  try { return gated(context, 0, nullptr); } catch (const std::runtime_error &) { return -1; }
}
}
"""
# An older one: batches go by value. Here a step is made of another one, too.
OLDER = """
extern "C" {
struct llama_batch { int n_tokens; void *arrays[6]; };
int (*inner)(void *, int, void *);
llama_batch llama_batch_init(int, int, int) { return {}; }
int llama_process(void *, int, void *) { return 0; }
int llama_decode(void *context, llama_batch batch) {
  inner(context, 0, nullptr);
  return batch.n_tokens == 7 && batch.arrays[5] == (void *)5;
}
int caught(int (*gated)(void *, llama_batch), void *context) {
  return gated(context, {7, {nullptr, nullptr, nullptr, nullptr, nullptr, (void *)5}});
}
long ggml_time_ms(void) { return 0; }
void llama_free(void *) {}
void llama_model_free(void *) {}
}
"""
# For a process whose clock was set back by an hour, as seen by whoever asks what time it is.
OTHER_CLOCK = """
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
extern "C" int clock_gettime(clockid_t clock, struct timespec *now) noexcept {
  int result = syscall(SYS_clock_gettime, clock, now);
  if (clock == CLOCK_REALTIME) now->tv_sec -= 3600;
  return result;
}
"""
WAIT = """
import ctypes, sys, time
wait = ctypes.CDLL(sys.argv[1]).gate_wait
wait.argtypes = (ctypes.c_long,)
began = time.monotonic()
wait(200)
print(time.monotonic() - began)
"""


def built(folder: Path, name: str, source: str) -> Path:
    code, library = folder / name, folder / f"{name}.so"
    code.write_text(source)
    subprocess.run(["c++", "-shared", "-fPIC", "-o", str(library), str(code)], check=True)
    return library


class Llama:
    """A llama.cpp whose functions do next to nothing, behind a gate of its own."""

    def __init__(
        self,
        folder: Path,
        source: str = SOURCE,
        step: str = "llama_process",
        *,
        task_loop: str = "",
    ) -> None:
        self._task_loop = task_loop
        self._functions = c.CDLL(str(built(folder, "llama.cpp", source)))
        self.library = c.CDLL(str(shutil.copy(_stepgate.__file__, folder)))  # nothing counted yet
        self.library.ggml_time_ms.restype = c.c_int64
        for function in ("llama_free", "llama_model_free"):
            self.library[function].argtypes = (c.c_void_p,)
        self.socket = str(folder / "server.sock")
        self.gate = self.gated()
        self._step = self.library[step]

    def gated(self, *, timeout_s: float = HANG_S) -> Gate:
        return Gate(self.library, cast(Any, self), self.socket, timeout_s=timeout_s)

    def address(self, *names: str) -> int | None:
        name = self._task_loop if names[0] == TASK_LOOP else names[0]
        function = getattr(self._functions, name, None)
        return function and c.cast(function, c.c_void_p).value

    def step(self, context: int) -> int:
        return int(self._functions.caught(self._step, c.c_void_p(context)))

    def steps_within(self) -> None:
        """From now on, a step is made of another one."""
        c.c_void_p.in_dll(self._functions, "inner").value = c.cast(
            self.library.llama_process, c.c_void_p
        ).value

    def ask_the_time(self, function: str) -> None:
        self._functions[function](self.library.ggml_time_ms)

    def free(self, context: int) -> None:
        self.library.llama_free(context)

    def free_model(self, model: int) -> None:
        self.library.llama_model_free(model)


@pytest.fixture
def llama(tmp_path: Path) -> Llama:
    return Llama(tmp_path)


class Server:
    """Listens where llama-server would, and never comes to the gate."""

    def __init__(self, path: str, *, answers: bool) -> None:
        self.requests: list[socket.socket] = []
        self.most_open = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self._answers = answers
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                request, _ = self._listener.accept()
            except OSError:
                return
            self.requests.append(request)
            self.most_open = max(self.most_open, sum(map(self._is_open, self.requests)))
            with contextlib.suppress(ConnectionError):  # it may have been given up already
                if self._answers:
                    request.sendall(b"HTTP/1.1 200 OK\r\n\r\n[]")

    def _is_open(self, request: socket.socket) -> bool:
        request.setblocking(False)
        try:
            while request.recv(4096):
                pass
            return False
        except BlockingIOError:
            return True
        except ConnectionError:  # closed before it had read our answer
            return False

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for request in self.requests:
            request.close()


@pytest.fixture(params=[False, True], ids=["silent", "answers"])
def server(llama: Llama, request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(llama.socket, answers=request.param)
    yield server
    server.close()


def test_a_step_that_throws_is_over_all_the_same(llama: Llama) -> None:
    """Else an idle server would never be held again."""
    stepped, stop = threading.Event(), threading.Event()
    results: list[int] = []

    def serve() -> None:
        results.append(llama.step(13))
        stepped.set()
        while not stop.is_set():
            llama.library.ggml_time_ms()

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    try:
        assert stepped.wait(HANG_S)
        assert results == [-1]
        llama.library.gate_want(ANYWHERE)
        assert llama.library.gate_wait(int(HANG_S * 1000)) == 1
    finally:
        stop.set()
        llama.library.gate_open()
        server.join()


def test_a_gate_that_is_not_of_this_code_is_told_so(llama: Llama, tmp_path: Path) -> None:
    older = c.CDLL(str(tmp_path / "llama.cpp.so"))

    with pytest.raises(LlamaError, match="has to be built anew"):
        Gate(older, cast(Any, llama), llama.socket)


def test_a_server_that_starts_stops_at_each_place_until_it_may_pass(llama: Llama) -> None:
    """So its first idle moment is known at once, and held; what it passes on the way is let go."""
    places, reached = 3, threading.Semaphore(0)
    gate = llama.gate

    def serve() -> None:
        llama.library.ggml_time_ms()  # before the model is loaded: it is no place yet
        llama.step(1)
        for _ in range(places):
            llama.library.ggml_time_ms()
            reached.release()

    gate.stop_first()
    server = threading.Thread(target=serve, daemon=True)
    server.start()
    try:
        # The step itself is a place too.
        for _ in range(places):
            assert gate.stopped_within(HANG_S)
            gate.pass_by()
        assert gate.stopped_within(HANG_S)
        assert [reached.acquire(blocking=False) for _ in range(places)] == [True, True, False]
        with gate.hold() as held:  # nobody listens there who could wake it
            assert held.contexts == [1]
        assert reached.acquire(timeout=HANG_S), "it goes on"
    finally:
        gate.go_on()
        server.join(HANG_S)


def test_where_its_task_loop_is_known_it_stops_nowhere_else(tmp_path: Path) -> None:
    llama, loads, idles = (
        Llama(tmp_path, task_loop="task_loop"),
        threading.Event(),
        threading.Event(),
    )
    gate = llama.gate
    assert gate.knows_loop

    def serve() -> None:
        llama.step(1)
        llama.ask_the_time("elsewhere")
        loads.set()
        llama.ask_the_time("task_loop")
        idles.set()

    gate.stop_first()
    server = threading.Thread(target=serve, daemon=True)
    server.start()
    try:
        assert loads.wait(HANG_S)
        assert gate.stopped_within(HANG_S)
        assert not idles.is_set()
    finally:
        gate.go_on()
        server.join(HANG_S)
    assert idles.is_set()


def test_the_task_loop_of_our_build_is_known() -> None:
    """Else a load is a few milliseconds longer, and nobody notices why."""
    library = default_libdir() / "libllama-server-impl.so"
    assert TASK_LOOP.encode() in library.read_bytes()


def test_nobody_who_may_go_on_is_kept(llama: Llama) -> None:
    llama.gate.stop_first()
    assert not llama.gate.stopped_within(0.0)
    llama.gate.pass_by()  # nobody is there
    llama.gate.go_on()

    llama.step(1)
    llama.library.ggml_time_ms()


def test_without_a_model_there_is_nothing_to_hold(llama: Llama) -> None:
    with pytest.raises(LlamaError, match="no model loaded"), llama.gate.hold():
        pass

    llama.step(1)
    llama.free(1)
    with pytest.raises(LlamaError, match="no model loaded"), llama.gate.hold():
        pass


def test_a_server_that_never_comes_is_not_waited_for_without_end(
    llama: Llama, server: Server
) -> None:
    """Whether it answers what is to wake it or not; and it never has two such requests open."""
    llama.step(1)
    gate = llama.gated(timeout_s=2.5 * LOOK_EVERY_MS / 1000)

    with pytest.raises(LlamaError, match=r"not come to the step gate for 1\.25 s"), gate.hold():
        pass

    assert server.most_open == 1


def test_one_that_cannot_be_woken_is_told_so(llama: Llama) -> None:
    llama.step(1)

    with (
        pytest.raises(LlamaError, match="woken: no such file"),
        llama.gated(timeout_s=0.1).hold(),
    ):
        pass


def test_a_new_context_where_an_old_one_was_is_known(llama: Llama) -> None:
    llama.step(1)
    assert llama.gate.contexts() == [1]
    llama.free(1)
    assert llama.gate.contexts() == []

    llama.step(1)

    assert llama.gate.contexts() == [1]


def test_those_that_stay_keep_their_order(llama: Llama) -> None:
    """The first one is the model's own, the others belong to drafts."""
    for context in (1, 2, 3):
        llama.step(context)

    llama.free(1)

    assert llama.gate.contexts() == [2, 3]


def test_a_model_that_is_freed_is_gone_although_another_comes_to_its_place(llama: Llama) -> None:
    llama.gate.watch(5)
    llama.free_model(6)
    assert llama.gate.watched == 5

    llama.free_model(5)

    assert llama.gate.watched is None
    with llama.gate.pinned() as there:
        assert not there


def test_a_pinned_model_is_freed_afterwards(llama: Llama) -> None:
    llama.gate.watch(5)
    freeing = threading.Thread(target=llama.free_model, args=(5,), daemon=True)
    with llama.gate.pinned() as there:
        assert there
        assert not llama.gate.model_leaves
        freeing.start()
        while not llama.gate.model_leaves:
            assert freeing.is_alive()
        assert llama.gate.watched == 5

    freeing.join(HANG_S)

    assert llama.gate.watched is None
    assert not llama.gate.model_leaves


def test_a_wait_does_not_go_by_the_time_of_day(tmp_path: Path) -> None:
    """It may be set while somebody waits."""
    clock = built(tmp_path, "clock.cpp", OTHER_CLOCK)

    waited = subprocess.run(
        [sys.executable, "-c", WAIT, _stepgate.__file__],
        env=os.environ | {"LD_PRELOAD": str(clock)},
        capture_output=True,
        check=True,
        timeout=HANG_S,
    )

    assert float(waited.stdout) >= 0.2


def test_an_older_llama_cpp_has_its_batches_handed_on_whole(tmp_path: Path) -> None:
    """They go by value; and what is called within a step is no other one."""
    llama = Llama(tmp_path, OLDER, "llama_decode")
    llama.steps_within()

    assert [llama.step(3), llama.step(3)] == [1, 1]

    assert llama.gate.steps == 2
    assert llama.gate.contexts() == [3]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (OLDER.replace("*arrays[6]", "*arrays[8]"), "struct llama_batch has 72 bytes here, 56 are"),
        (OLDER.replace("llama_batch_init", "batch_init"), "lacks llama_batch_init"),
        (OLDER.replace("llama_free", "other_free"), "lacks llama_free: there is nowhere"),
        (SOURCE.replace("llama_process", "other"), "lacks llama_process, llama_decode, "),
    ],
)
def test_one_that_the_gate_does_not_fit_is_told_so(tmp_path: Path, source: str, why: str) -> None:
    with pytest.raises(LlamaError, match=why):
        Llama(tmp_path, source)
