"""What a command sends to a proxy: where to, and with which key."""

import os
from pathlib import Path

import pytest

from proxy.cli.client import default_key


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of keys that the policies of this user name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policies").mkdir()
    file = tmp_path / "keys.txt"
    (tmp_path / "policies/p.toml").write_text(f'server.api_keys_file = "{file}"')
    return file


def test_the_first_key_that_may_change_something_is_used(keys: Path) -> None:
    text = "\ufeff# ours\nguest use Guest\n  boss  admin Boss limit=9\nother\n"
    keys.write_text(text, encoding="utf-8")

    assert default_key({"HOME": "/"}) == "boss"
    assert default_key({"HOME": "/", "MOE_PROXY_API_KEY": "named"}) == "named"


def test_a_file_that_is_none_gives_no_key(keys: Path) -> None:
    assert default_key({"HOME": "/"}) is None

    os.mkfifo(keys)
    assert default_key({"HOME": "/"}) is None
