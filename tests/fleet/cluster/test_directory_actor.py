"""The actor that has the directory, without Ray."""

from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from proxy.fleet.cluster import directory_actor, machines
from proxy.fleet.cluster.directory import Memory, Report
from proxy.fleet.cluster.directory_actor import DirectoryActor

pytestmark = pytest.mark.skipif(
    find_spec("ray") is None, reason="Ray is not installed: pip install 'moe-proxy[fleet]'"
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Its `now_s` is the time; no machine is looked for."""
    context = SimpleNamespace(was_current_actor_reconstructed=False)
    monkeypatch.setattr("ray.get_runtime_context", lambda: context)
    monkeypatch.setattr(machines, "deployed_by_resource", lambda: True)
    monkeypatch.setattr(machines, "wanted", lambda _: frozenset({"m", "n"}))
    monkeypatch.setattr(machines, "set_replicas", lambda _: None)
    time = SimpleNamespace(now_s=0.0)
    monkeypatch.setattr(directory_actor, "time", SimpleNamespace(monotonic=lambda: time.now_s))
    return time


async def test_a_status_says_how_long_ago_each_has_told(clock: SimpleNamespace) -> None:
    actor = DirectoryActor()
    await actor.tell(Report("m", "a", "ready"))
    clock.now_s = 50.0
    await actor.tell(Report("n", "b", "ready"))
    clock.now_s = 61.0

    told = await actor.status()

    assert told["ages"] == {"a": 61.0, "b": 11.0}
    await actor.tell(Report("m", "a", "ready"))
    assert (await actor.status())["ages"]["a"] == 0.0


async def test_what_others_remember_of_one_is_as_old_as_the_life_it_is_told_in(
    clock: SimpleNamespace,
) -> None:
    actor = DirectoryActor()
    key = (await actor.status())["key"]
    await actor.remind(Memory(key, reports=(Report("m", "a", "ready"),)))
    clock.now_s = 4.0

    assert (await actor.status())["ages"] == {"a": 4.0}
