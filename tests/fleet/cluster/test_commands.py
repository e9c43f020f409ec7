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
