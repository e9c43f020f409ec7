"""Where llama.cpp's programs are found."""

import importlib.util
from pathlib import Path

import pytest

from proxy.engine.installed import folder, program


def test_our_own_build_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "llama-server"
    other.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert program("llama-server") == f"{folder('bin')}/llama-server"

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert folder("bin") is None
    assert program("llama-server") == str(other)


def test_what_is_missing_is_told() -> None:
    with pytest.raises(LookupError, match="no-such-program is missing; make setup builds it"):
        program("no-such-program")
