"""What llama.cpp's releases do each in their own way."""

import subprocess
import sys
from pathlib import Path

import pytest

from proxy.worker.libraries import default_libdir
from proxy.worker.releases import knows, rpc_is_for_one_thread
from tests.support.guard import HANG_S

ENDS = """
import ctypes, sys
from proxy.worker.releases import end_by_its_handler
end_by_its_handler()  # one that has set none is not called
@ctypes.CFUNCTYPE(None, ctypes.c_int)
def handler(signal):
    print("told", signal)
ctypes.CDLL(None).signal(15, handler)
end_by_its_handler()
end_by_its_handler()  # told once
"""


@pytest.mark.llama
@pytest.mark.parametrize(
    ("option", "known"),
    [("--load-mode", True), ("--cpu-moe", True), ("--no-repack", True), ("--no-such", False)],
)
def test_which_options_there_are_is_seen_in_the_libraries(option: str, known: bool) -> None:
    assert knows(default_libdir())(option) == known


def test_a_server_without_a_function_for_it_is_ended_by_its_handler() -> None:
    ended = subprocess.run(
        (sys.executable, "-c", ENDS), capture_output=True, text=True, timeout=HANG_S
    )

    assert (ended.stdout, ended.stderr) == ("told 15\n", "")


@pytest.mark.llama
def test_whether_rpc_devices_are_for_one_thread_is_seen_in_their_library(tmp_path: Path) -> None:
    ours = default_libdir()
    assert not rpc_is_for_one_thread(ours)
    assert not rpc_is_for_one_thread(tmp_path), "there are none"
    library = (ours / "libggml-rpc.so").read_bytes()

    (tmp_path / "libggml-rpc.so").write_bytes(library.replace(b"rpc_dispatcher", b"rpc_despatcher"))

    assert rpc_is_for_one_thread(tmp_path)
