"""What `moe-proxy fleet` does where the fleet does not go along. Ray itself is not asked."""

from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from proxy.fleet.cluster import commands
from proxy.fleet.cluster.directory import Report

pytestmark = pytest.mark.skipif(
    find_spec("ray") is None, reason="Ray is not installed: pip install 'moe-proxy[fleet]'"
)


def test_a_node_that_does_not_come_back_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = SimpleNamespace(remote=lambda *_: None)
    stays = {"reports": [Report("m", "b", "drained")]}
    directory = SimpleNamespace(drain=answers, status=SimpleNamespace(remote=lambda: stays))
    monkeypatch.setattr("ray.get", lambda what, timeout: what)
    monkeypatch.setattr(commands, "UP_S", 0.0)
    monkeypatch.setattr(commands, "LOOK_S", 0.0)

    with pytest.raises(commands.FleetProblem, match="b is still drained"):
        list(commands._drained(directory, "b", undo=True))
