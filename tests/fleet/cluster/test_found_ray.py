"""Which Ray of this machine is used, and that one which has ended is noticed; without Ray."""

import os
import socket
from pathlib import Path

import pytest

from proxy.fleet.cluster.found_ray import (
    choose,
    cluster_of,
    last_started,
    node_of,
    running,
    why_not_listen,
    why_silent,
)

RAYLET = b"/x/ray/core/src/ray/raylet/raylet\0--node_id=1\0--gcs-address=10.0.0.1:6379\0"


def test_a_raylet_says_its_cluster_and_nothing_else_does() -> None:
    assert cluster_of(RAYLET) == {"10.0.0.1:6379"}
    assert cluster_of(RAYLET.replace(b"=10.0.0.1:6379", b"=")) == set()
    assert cluster_of(b"grep\0--gcs-address=10.0.0.1:6379\0") == set()
    assert cluster_of(b"") == set()


def test_only_processes_of_this_user_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("1", "self"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cmdline").write_bytes(RAYLET.replace(b"0.1", name.encode()))
    (tmp_path / "2").mkdir()  # one that has just ended

    assert running(tmp_path) == {"10.0.1:6379"}
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    assert running(tmp_path) == frozenset()


def test_of_several_on_a_machine_ours_is_the_one_that_we_have_started(tmp_path: Path) -> None:
    for pid, parent in ((4, 1), (5, 1), (6, 5), (7, 4), (8, 6)):
        folder = tmp_path / str(pid)
        folder.mkdir()
        (folder / "stat").write_text(f"{pid} (ray let) S {parent} 1 1 0")
        line = RAYLET.replace(b"id=1", b"id=%d" % pid) if pid > 6 else b"ray"
        (folder / "cmdline").write_bytes(line)
    (tmp_path / "9").mkdir()  # one that has just ended

    assert node_of(5, tmp_path) == "8"
    assert node_of(6, tmp_path) == "8"
    assert node_of(9, tmp_path) is None


def test_what_was_started_last_counts_only_while_it_runs(tmp_path: Path) -> None:
    assert last_started(str(tmp_path)) is None
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("a:1\n")
    last = last_started(str(tmp_path))

    assert choose({"a:1", "b:1"}, last) == "a:1"
    assert choose({"b:1"}, last) == "b:1"
    assert choose((), last) is None
    with pytest.raises(LookupError, match="RAY_ADDRESS to one of b:1, c:1"):
        choose({"c:1", "b:1"}, last)


def test_an_address_where_nothing_listens_is_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert why_silent(address) is None
    assert why_silent(address) == "Connection refused"
    assert why_silent("127.0.0.1:x")
    assert why_silent("127.0.0.1:99999")


def test_a_port_that_ray_cannot_have_is_told_before_ray_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        why = why_not_listen("127.0.0.1", port)
        assert why is not None
        # A free port may be one of Ray's own.
        assert "choose another" in why
    assert "10001 to 19999" in (why_not_listen("127.0.0.1", 16379) or "")
    assert why_not_listen("127.0.0.1", 0) is None
