"""What `moe-proxy fleet` does where the fleet does not go along. Ray itself is not asked."""

from importlib.util import find_spec

import pytest

from proxy.fleet.cluster import commands, machines
from proxy.fleet.cluster.directory import Report

pytestmark = pytest.mark.skipif(
    find_spec("ray") is None, reason="Ray is not installed: pip install 'moe-proxy[fleet]'"
)


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
        list(commands._drained(None, "b", undo=True))
