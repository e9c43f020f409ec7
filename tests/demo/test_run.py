"""What the demo says at its end can be pasted into another terminal."""

import shlex
import shutil
import sys
from pathlib import Path

import pytest

from proxy.cli.main import _parser
from proxy.demo.run import _what_next

URL = "http://127.0.0.1:1234"


def test_what_to_try_next_is_taken_in_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "a clone" / "moe-proxy"
    monkeypatch.setattr(sys, "argv", [str(program), "demo"])
    monkeypatch.setattr(shutil, "which", lambda name: None)

    _what_next(URL, keep=True)

    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert f"export MOE_PROXY_URL={URL}" in [line.partition("  ")[0] for line in lines]
    said = [shlex.split(line) for line in lines if "a clone" in line]
    assert [words[0] for words in said] == [str(program)] * 3
    parser = _parser()[0]
    assert [parser.parse_args(words[1:]).command for words in said] == ["run", "set", "ps"]
