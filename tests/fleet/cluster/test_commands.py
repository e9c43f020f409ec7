"""What `moe-proxy fleet` does where the fleet does not go along. Ray itself is not asked."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from proxy.fleet.cluster import commands, found_ray, machines, own_ray
from proxy.fleet.cluster.directory import Report, Setup
from proxy.fleet.cluster.seen import Seen

pytestmark = pytest.mark.skipif(
    find_spec("ray") is None, reason="Ray is not installed: pip install 'moe-proxy[fleet]'"
)


def test_what_ray_says_is_no_part_of_a_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def seen(*_: object) -> Seen:
        sys.stdout.write("(raylet) a node has been marked dead\n")
        return Seen((), frozenset(), 0, {})

    monkeypatch.setattr(commands, "connected", lambda _: None)
    monkeypatch.setattr(commands, "seen_of", seen)
    monkeypatch.setattr(own_ray, "own_machine", lambda _: "m")

    assert commands.status({}).reports == ()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("began", [True, False])
def test_where_no_fleet_begins_a_ray_that_was_started_for_it_is_ended(
    monkeypatch: pytest.MonkeyPatch, began: bool
) -> None:
    ended: list[object] = []
    monkeypatch.setattr(machines, "existing_directory", lambda: None)
    monkeypatch.setattr(own_ray, "started", lambda _: "ours")
    monkeypatch.setattr(own_ray, "end", lambda own, _: ended.append(own))
    monkeypatch.setattr(commands, "BEGINS_S", 0.05)
    monkeypatch.setattr(commands, "LOOK_S", 0.1)
    said: list[str] = []

    with pytest.raises(commands.FleetProblem, match="no fleet in that cluster yet"):
        commands._until_there({}, began, said.append)

    assert ended == (["ours"] if began else [])
    assert len(said) == 1


def test_a_machine_joins_once_the_first_one_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([None, "directory", "directory"])
    deployed = iter([False, True])
    monkeypatch.setattr(machines, "existing_directory", lambda: next(looks))
    monkeypatch.setattr(machines, "is_deployed", lambda: next(deployed))
    monkeypatch.setattr(commands, "LOOK_S", 0.0)

    commands._until_there({}, True, lambda _: None)

    assert next(looks, None) is None


def test_a_node_that_does_not_come_back_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stays = {"reports": [Report("m", "b", "drained")]}
    answers = {"drain": None, "status": stays}
    monkeypatch.setattr(machines, "asked", lambda _, method, *__: answers[method])
    monkeypatch.setattr("ray.get", lambda what, timeout: what)
    monkeypatch.setattr(commands, "UP_S", 0.0)
    monkeypatch.setattr(commands, "LOOK_S", 0.0)

    with pytest.raises(commands.FleetProblem, match="b is still drained"):
        list(commands.drained(None, "b", undo=True))


def test_until_a_machine_is_set_up_as_was_said_now_its_address_is_none_to_be_told() -> None:
    now = Setup(port=2)
    before, after = Report("m", "b", "ready", setup=Setup(port=1)), Report("m", "b", setup=now)

    assert commands.is_other(before, "m", now)
    assert commands.is_other(Report("m", "b", "ready"), "m", now)
    assert not commands.is_other(after, "m", now)
    assert not commands.is_other(before, "another", now)
    assert not commands.is_other(before, "m", None)
    # A name alone, which one that has one does not take.
    assert not commands.is_other(Report("m", "b", "ready"), "m", Setup())


def test_how_to_join_is_told_where_others_get_there() -> None:
    with_token = commands.join_text("10.0.0.1:6379", "secret")

    assert with_token.endswith("RAY_AUTH_TOKEN=secret moe-proxy fleet up --head 10.0.0.1:6379")
    assert "TOKEN" not in commands.join_text("10.0.0.1:6379", None)
    for nowhere in ("127.0.0.1:6379", "[::1]:6379", "localhost:1", "ray://10.0.0.1:10001/x"):
        assert commands.join_text(nowhere, None) == ""


def test_how_to_join_a_ray_of_ones_own_is_told_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(found_ray, "running", lambda: {"10.0.0.1:6379"})

    told = commands.how_to_join({"HOME": str(tmp_path)})

    assert told.endswith("\n  moe-proxy fleet up --head 10.0.0.1:6379")
