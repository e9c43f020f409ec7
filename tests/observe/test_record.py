"""Which proxy has a state folder: real processes, real locks."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.observe.record import RECORD, Taken, claim, serving

CLAIMS = """
import sys; from pathlib import Path; from proxy.observe.record import claim
record = claim(Path(sys.argv[1])); record.say("http://there:1"); print("up", flush=True)
sys.stdin.read()
"""


def test_a_state_folder_is_one_proxys(tmp_path: Path) -> None:
    """As long as that runs, however it ends."""
    state = tmp_path / "deep/state"
    with subprocess.Popen(
        [sys.executable, "-c", CLAIMS, str(state)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == b"up\n"
            who = re.escape(
                f"(process {other.pid}, at http://there:1) has the state folder {state}"
            )
            with pytest.raises(Taken, match=who):
                claim(state)
            found = serving(state)
            assert found is not None
            assert found.url == "http://there:1"
        finally:
            other.kill()

    assert serving(state) is None
    claim(state).close()


def test_a_state_folder_that_cannot_be_had_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / RECORD)
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / RECORD).symlink_to(tmp_path / "file")

    for name in ("file", "link"):
        record = claim(tmp_path / name)
        record.say("http://there:1")
        assert serving(tmp_path / name) is None
        record.close()
    assert serving(tmp_path / "pipe") is None
    assert (tmp_path / "file").read_bytes() == b""
