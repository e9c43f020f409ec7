"""API keys: three ways to send one, and a file that is read again when it changes."""

import base64
import os
from pathlib import Path

import pytest

from proxy.api.keys import ApiKeys
from proxy.errors import Unauthorized


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.txt"
    path.write_text("# ours\nfirst\n\n second \n")
    return path


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer first"},
        {"Authorization": "bearer second"},
        {"x-api-key": "second"},
        {"Authorization": "Basic " + base64.b64encode(b"me:first").decode()},
    ],
)
def test_a_known_key_may_enter(file: Path, headers: dict[str, str]) -> None:
    ApiKeys().check(headers, file)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer third"},
        {"Authorization": "Bearer # ours"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic !"},
        {"x-api-key": "firs"},
    ],
)
def test_others_may_not(file: Path, headers: dict[str, str]) -> None:
    with pytest.raises(Unauthorized, match="API key"):
        ApiKeys().check(headers, file)


def test_without_a_file_everyone_may_enter() -> None:
    ApiKeys().check({}, None)


def test_a_changed_file_counts_at_once_and_a_lost_one_lets_nobody_in(file: Path) -> None:
    ring = ApiKeys()
    ring.check({"x-api-key": "first"}, file)

    file.write_text("third\n")
    os.utime(file, ns=(1, 1))
    ring.check({"x-api-key": "third"}, file)
    with pytest.raises(Unauthorized):
        ring.check({"x-api-key": "first"}, file)

    file.unlink()
    with pytest.raises(Unauthorized):
        ring.check({"x-api-key": "third"}, file)
