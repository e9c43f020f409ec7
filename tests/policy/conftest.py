"""A folder for policies with a home of its own, so that nothing of the machine counts."""

from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.policy.load import Loaded, load
from proxy.policy.model import Policies

Write = Callable[..., Path]
LoadText = Callable[..., Loaded]
Valid = Callable[..., Policies]


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment with a home folder, and a current folder that has no policies."""
    home = tmp_path / "home"
    (tmp_path / "cwd").mkdir()
    home.mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return {"HOME": str(home)}


@pytest.fixture
def load_text(tmp_path: Path, env: dict[str, str]) -> LoadText:
    """Load this text from a real file."""

    def run(text: str, **variables: str) -> Loaded:
        file = tmp_path / "policies.toml"
        file.write_text(text)
        return load(file, env | variables)

    return run


@pytest.fixture
def valid(load_text: LoadText) -> Valid:
    """Load this text, which has no problems."""

    def run(text: str = "", **variables: str) -> Policies:
        loaded = load_text(text, **variables)
        assert loaded.problems == ()
        assert loaded.policies is not None
        return loaded.policies

    return run
