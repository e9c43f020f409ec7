"""Commands of one machine take turns."""

import subprocess
import sys
import threading
from pathlib import Path

from proxy.fleet.cluster.turn import turn


def test_one_waits_for_another_and_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    waits, ended = threading.Event(), threading.Event()

    def other() -> None:
        def say(text: str) -> None:
            said.append(text)
            waits.set()

        with turn(tmp_path / "fleet", say):
            assert ended.is_set()

    thread = threading.Thread(target=other)
    with turn(tmp_path / "fleet", said.append):
        thread.start()
        waits.wait()
        ended.set()
    thread.join()

    assert said == ["waiting for another moe-proxy fleet command on this machine"]


def test_who_was_killed_is_not_waited_for(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from proxy.fleet.cluster.turn import turn\n"
        "with turn(pathlib.Path(sys.argv[1]), print): print('has it', flush=True); input()"
    )
    argv = (sys.executable, "-c", code, str(tmp_path))
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"has it\n"
        process.kill()
        process.wait()

    said: list[str] = []
    with turn(tmp_path, said.append):
        assert said == []
