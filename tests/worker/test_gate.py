"""The step gate's own library, between a server and a llama.cpp that do what is to be shown."""

import ctypes as c
import shutil
import subprocess
import threading
from pathlib import Path

from proxy.worker import _stepgate
from tests.support.guard import HANG_S

ANYWHERE = 2
# A step that fails as an allocation does in llama.cpp, and a server that catches that.
SOURCE = """
#include <stdexcept>
extern "C" int process(void *, int, void *) { throw std::runtime_error("no room"); }
extern "C" long time_ms(void) { return 0; }
extern "C" void free_context(void *) {}
extern "C" int caught(int (*gated)(void *, int, void *)) {
  try { return gated((void *)1, 0, nullptr); } catch (const std::runtime_error &) { return -1; }
}
"""


def test_a_step_that_throws_is_over_all_the_same(tmp_path: Path) -> None:
    """Else an idle server would never be held again."""
    source, library = tmp_path / "throws.cpp", tmp_path / "libthrows.so"
    source.write_text(SOURCE)
    subprocess.run(["c++", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    llama = c.CDLL(str(library))
    gate = c.CDLL(str(shutil.copy(_stepgate.__file__, tmp_path)))  # with nothing counted yet
    gate.ggml_time_ms.restype = c.c_int64
    gate.gate_wait.argtypes = (c.c_long,)
    real = [c.cast(f, c.c_void_p) for f in (llama.process, llama.time_ms, llama.free_context)]
    assert gate.gate_install(*real) == 0
    stepped, stop = threading.Event(), threading.Event()
    results: list[int] = []

    def serve() -> None:
        results.append(llama.caught(gate.llama_process))
        stepped.set()
        while not stop.is_set():
            gate.ggml_time_ms()

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    try:
        assert stepped.wait(HANG_S)
        assert results == [-1]
        gate.gate_want(ANYWHERE)
        assert gate.gate_wait(int(HANG_S * 1000)) == 1
    finally:
        stop.set()
        gate.gate_open()
        server.join()
