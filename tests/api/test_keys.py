"""API keys: three ways to send one, and a file that is read again when it changes."""

import base64
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.api.keys import ApiKeys
from proxy.errors import Forbidden, TooManyRequests, Unauthorized


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


@pytest.mark.parametrize("scheme", ["Bearer ", "Basic ", "bearer", ""])
@pytest.mark.parametrize("value", ["\udce9", "é", "\x00", "a" * 100_000, "=", "\udcff\udcfe"])
def test_a_key_of_any_bytes_is_just_not_known(file: Path, scheme: str, value: str) -> None:
    for header in ("Authorization", "x-api-key"):
        with pytest.raises(Unauthorized):
            ApiKeys().check({header: scheme + value}, file)


def test_a_key_may_have_any_bytes(file: Path) -> None:
    file.write_bytes(b"k\xe9y\n" + "schlüssel\n".encode())

    ApiKeys().check({"x-api-key": "k\udce9y"}, file)
    ApiKeys().check({"Authorization": "Bearer schlüssel"}, file)


def test_a_file_that_takes_its_place_is_noticed_though_its_time_is_the_same(file: Path) -> None:
    ring = ApiKeys()
    ring.check({"x-api-key": "first"}, file)
    status = file.stat()
    other = file.with_name("other.txt")
    other.write_bytes(file.read_bytes().replace(b"first", b"third"))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(file)

    with pytest.raises(Unauthorized):
        ring.check({"x-api-key": "first"}, file)
    ring.check({"x-api-key": "third"}, file)


def test_a_byte_order_mark_is_no_part_of_the_first_key(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbffirst\r\nsecond\r\n")

    ApiKeys().check({"x-api-key": "first"}, file)


def test_a_pipe_in_its_place_keeps_nobody_waiting(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)

    with pytest.raises(Unauthorized):
        ApiKeys().check({"x-api-key": "first"}, file)


def test_a_file_that_everybody_can_read_is_told_of_once(file: Path) -> None:
    ring = ApiKeys()
    file.chmod(0o600)
    with capture_logs() as before:
        ring.check({"x-api-key": "first"}, file)
    file.chmod(0o644)
    with capture_logs() as logs:
        ring.check({"x-api-key": "first"}, file)
        file.write_text("first\n")
        ring.check({"x-api-key": "first"}, file)

    warning = "api_keys_readable_by_everybody"
    assert warning not in [line["event"] for line in before]
    assert [line["event"] for line in logs].count(warning) == 1


def test_a_line_that_is_no_key_is_told_of_without_it(file: Path) -> None:
    file.write_text("secret-one root\nsecret-two\n")
    with capture_logs() as logs, pytest.raises(Unauthorized):
        ApiKeys().check({"x-api-key": "secret-one"}, file)

    assert "api_keys_line_not_used" in [line["event"] for line in logs]
    assert "secret" not in str(logs)


def test_a_key_for_use_does_not_change_the_machine(file: Path) -> None:
    file.write_text("mine use\nroot admin\nold\n")
    ring = ApiKeys()

    ring.check({"x-api-key": "mine"}, file)
    with pytest.raises(Forbidden):
        ring.check({"x-api-key": "mine"}, file, admin=True)
    for key in ("root", "old"):
        ring.check({"x-api-key": key}, file, admin=True)


def test_a_limit_is_what_a_key_may_ask_in_a_minute(file: Path) -> None:
    file.write_text("mine use anna limit=2\nother\n")
    now_s = 100.0
    ring = ApiKeys(lambda: now_s)
    for _ in range(2):
        ring.check({"x-api-key": "mine"}, file)

    with pytest.raises(TooManyRequests) as refused:
        ring.check({"x-api-key": "mine"}, file)
    assert refused.value.retry_after_s == pytest.approx(30)
    ring.check({"x-api-key": "other"}, file)

    now_s += 30
    ring.check({"x-api-key": "mine"}, file)
    with pytest.raises(TooManyRequests):
        ring.check({"x-api-key": "mine"}, file)
    now_s += 3600
    for _ in range(2):
        ring.check({"x-api-key": "mine"}, file)
    with pytest.raises(TooManyRequests):
        ring.check({"x-api-key": "mine"}, file)


def test_what_was_made_of_keys_is_told_without_them(file: Path) -> None:
    secret = "sk-0123456789"
    file.write_text(f"{secret} use\nother-secret admin anna limit=5\n")
    ring = ApiKeys()
    ring.check({"x-api-key": secret}, file)
    file.write_text(f"{secret} use\nother-secret admin anna limit=5\nlater\n")
    ring.check({"x-api-key": secret}, file)

    told = ring.usage()

    assert [(use["name"], use["scope"], use["requests"]) for use in told] == [
        ("sk-0", "use", 2), ("anna", "admin", 0), ("line 3", "admin", 0),
    ]  # fmt: skip
    assert told[0]["last_used"] is not None
    assert told[1]["last_used"] is None
    assert told[1]["requests_per_minute"] == 5
    assert "secret" not in str(told)
    assert secret not in str(told)
