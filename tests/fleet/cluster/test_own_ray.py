"""How Ray is started here, and what it asks for; without Ray."""

import json
import os
import socket
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.fleet.cluster import found_ray, own_ray
from proxy.fleet.cluster.own_ray import (
    RayProblem,
    Started,
    command,
    connect,
    keep_token,
    make_token,
    not_started,
    ray_env,
    start,
    started,
    use_token,
)


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setattr(own_ray, "_show_token", lambda: None)
    return {"HOME": str(tmp_path)}


def test_a_first_machine_makes_a_token_that_only_its_user_reads(
    env: dict[str, str], tmp_path: Path
) -> None:
    token = make_token(env)

    file = tmp_path / ".ray" / "auth_token"
    assert token is not None
    assert (len(token), file.read_text()) == (64, token)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert make_token(env) == token


def test_one_that_is_given_is_kept_once_a_ray_has_taken_it(env: dict[str, str]) -> None:
    assert use_token(env) is None
    assert use_token(env | {"RAY_AUTH_TOKEN": "given"}) == "given"
    # A wrong one is in nobody's way.
    assert use_token(env) is None
    keep_token(env | {"RAY_AUTH_TOKEN": "given"})
    assert use_token(env) == "given"


def test_another_one_than_before_is_refused_with_a_reason(env: dict[str, str]) -> None:
    make_token(env)

    with pytest.raises(RayProblem, match="remove that file"):
        use_token(env | {"RAY_AUTH_TOKEN": "another"})


def test_who_has_chosen_to_have_none_has_none(env: dict[str, str], tmp_path: Path) -> None:
    assert make_token(env | {"RAY_AUTH_MODE": "disabled"}) is None
    assert not (tmp_path / ".ray").exists()


def test_the_dashboard_is_open_to_nobody_else() -> None:
    first, other = command(None, "10.0.0.1", 6379), command("10.0.0.1:6379", "10.0.0.2", 6379)

    for words in (first, other):
        assert words[words.index("--dashboard-host") + 1] == "127.0.0.1"
        assert json.loads(words[words.index("--resources") + 1]) == {"moe_proxy": 1}
    assert first[first.index("--include-dashboard") + 1] == "false"
    assert other[other.index("--address") + 1] == "10.0.0.1:6379"


def test_ray_kills_nobody_for_memory_unless_that_is_wanted() -> None:
    assert ray_env({})["RAY_memory_monitor_refresh_ms"] == "0"
    assert (
        ray_env({"RAY_memory_monitor_refresh_ms": "250"})["RAY_memory_monitor_refresh_ms"] == "250"
    )


def test_of_what_ray_says_one_line_is_passed_on(tmp_path: Path) -> None:
    said = "Traceback (most recent call last):\n  File x\nOSError: no room\n\n"

    assert not_started(said, tmp_path).endswith(f"{tmp_path}): OSError: no room")
    assert "\n" not in not_started("", tmp_path)


def test_a_ray_that_does_not_come_up_is_ended_with_its_record(
    env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_ray, "START_S", 0.0)
    sleeps = "import time; time.sleep(600)"
    monkeypatch.setattr(own_ray, "command", lambda *_: (sys.executable, "-c", sleeps))
    ended: list[Started] = []
    end = own_ray.end

    def noted(own: Started, env: dict[str, str]) -> None:
        ended.append(own)
        end(own, env)

    monkeypatch.setattr(own_ray, "end", noted)

    with pytest.raises(RayProblem, match="Ray does not start"):
        start(None, 0, env)

    (own,) = ended
    assert own_ray._began(own.pid) != own.began
    assert started(env) is None
    assert not list(tmp_path.rglob("ray.json"))


def test_one_whose_end_was_not_waited_for_is_waited_for_by_the_next_command(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own_ray.folder(env).mkdir(parents=True)
    monkeypatch.setattr(found_ray, "running", frozenset)
    slow = "import signal; signal.signal(signal.SIGTERM, lambda *_: None); print(flush=True); "
    argv = (sys.executable, "-c", slow + "input()")
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        own = Started(process.pid, own_ray._began(process.pid), "10.0.0.1:6379")

        def interrupted(_: float) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("time.sleep", interrupted)
            with pytest.raises(KeyboardInterrupt):
                own_ray.end(own, env)
        assert started(env) == replace(own, ends=True)
        monkeypatch.setattr(own_ray, "END_S", 0.0)

        assert connect(env | {"RAY_TMPDIR": env["HOME"]}) is False

        assert process.wait() != 0
    assert started(env) is None


def test_an_address_is_the_same_by_any_name() -> None:
    assert found_ray.same("localhost:6379", "127.0.0.1:6379")
    assert not found_ray.same("127.0.0.1:6379", "127.0.0.1:6380")
    assert not found_ray.same("127.0.0.1:6379", "nonsense")


def test_only_a_ray_that_we_have_started_and_that_runs_is_ours(
    env: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / ".local" / "state" / "moe-proxy" / "fleet"
    folder.mkdir(parents=True)
    assert started(env) is None

    with subprocess.Popen((sys.executable, "-c", "input()"), stdin=subprocess.PIPE) as process:
        ours = Started(process.pid, own_ray._began(process.pid), "10.0.0.1:6379")
        (folder / "ray.json").write_text(
            json.dumps({"pid": ours.pid, "began": ours.began, "address": ours.address})
        )
        assert started(env) == ours
        # Another process got its number.
        (folder / "ray.json").write_text(
            json.dumps({"pid": os.getpid(), "began": ours.began + "1", "address": ""})
        )
        assert started(env) is None
    (folder / "ray.json").write_text("no JSON")
    assert started(env) is None


@pytest.fixture
def silent() -> str:
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_a_ray_that_has_ended_is_not_waited_for(
    env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(silent)
    monkeypatch.setattr(found_ray, "running", frozenset)

    assert connect(env | {"RAY_TMPDIR": str(tmp_path)}) is False
    with pytest.raises(RayProblem, match=f"{silent} does not answer: Connection refused"):
        connect(env | {"RAY_ADDRESS": silent})


def test_a_head_that_is_not_there_is_told_before_ray_starts(
    env: dict[str, str], silent: str
) -> None:
    with pytest.raises(RayProblem, match=f"nothing answers at {silent}"):
        start(silent, own_ray.PORT, env)
