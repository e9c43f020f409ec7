"""What `moe-proxy fleet` does where the fleet does not go along. Ray itself is not asked."""

import sys
from importlib.util import find_spec

import pytest

from proxy.fleet.cluster import commands, machines, own_ray
from proxy.fleet.cluster.directory import Report
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
