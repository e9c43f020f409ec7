"""What a front tells those who follow it, out of what its nodes tell."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.fleet.front.views.live import FleetLive, State
from proxy.observe.events import Event, EventLog


class Nodes:
    """What is known of them, as a front has it."""

    def __init__(self, **states: State) -> None:
        self.told: dict[str, State] = dict(states)

    def states(self) -> Mapping[str, State]:
        return self.told

    def about(self) -> Mapping[str, Mapping[str, Any]]:
        return {name: {"state": "ready"} for name in self.told}


def node(*, generation: int = 1, **topics: Any) -> State:
    """What a node's events begin with."""
    policies = {"generation": generation, "files": [], "problems": [], "waiting_for_restart": []}
    return {
        "proxy": {"instance": "1", "models_seen": 1, "draining": False, "policies": policies,
                  "queue": {"waiting": 1, "max": 512}, "degraded": []},
        "memory": {"devices": {}, "host": {"total_bytes": 10, "available_bytes": 4}},
        "backends": {},
        "requests": {},
        **topics,
    }  # fmt: skip


def live(nodes: Nodes) -> FleetLive:
    return FleetLive(EventLog(logged=False), nodes, lambda: "attic")


def heard(made: FleetLive) -> list[Event]:
    """What a follower is told by one more look."""
    with made.events.subscribe() as subscription:
        made.everything()
        return list(subscription._queue)


def put_on(value: Any, patch: Any) -> Any:
    """A JSON merge patch, as those who follow put it on what they have (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    found = dict(value) if isinstance(value, dict) else {}
    for key, change in patch.items():
        if change is None:
            found.pop(key, None)
        else:
            found[key] = put_on(found.get(key), change)
    return found


def no_nulls(value: Any) -> Any:
    """What is null counts as not there, as in any merge patch."""
    if isinstance(value, dict):
        return {key: no_nulls(each) for key, each in value.items() if each is not None}
    return value


def test_it_begins_with_what_all_nodes_have() -> None:
    loaded = {"b1": {"id": "b1", "model": "m"}}
    device = {"devices": {"CUDA0": {"name": "CUDA0"}}, "host": {"total_bytes": 5}}
    found = live(Nodes(attic=node(backends=loaded), cellar=node(backends=loaded, memory=device)))
    state = found.everything()

    assert {(b["id"], b["node"]) for b in state["backends"].values()} == {
        ("attic.b1", "attic"),
        ("cellar.b1", "cellar"),
    }
    assert state["backends"].keys() == {"attic.b1", "cellar.b1"}
    assert state["memory"]["devices"] == {"cellar.CUDA0": {"name": "CUDA0", "node": "cellar"}}
    assert state["memory"]["host"]["total_bytes"] == 15
    assert state["memory"]["hosts"]["cellar"] == {"total_bytes": 5}
    assert state["proxy"]["queue"] == {"waiting": 2, "max": 1024}
    assert state["proxy"]["nodes"] == {"attic": {"state": "ready"}, "cellar": {"state": "ready"}}


def test_it_goes_on_with_what_is_different() -> None:
    nodes = Nodes(attic=node(), cellar=node())
    found = live(nodes)
    found.everything()
    nodes.told["attic"] = node(requests={"r": {"id": "r", "backend": "b1", "tokens": 1}})
    (event,) = heard(found)
    assert (event.id, event.kind) == (0, "requests")
    request = {"id": "attic.r", "backend": "attic.b1", "tokens": 1, "node": "attic"}
    assert event.fields["patch"] == {"attic.r": request}

    nodes.told["attic"] = node(requests={"r": {"id": "r", "backend": "b1", "tokens": 2}})
    (event,) = heard(found)
    assert event.fields["patch"] == {"attic.r": {"tokens": 2}}
    assert heard(found) == []


def test_what_a_node_had_is_gone_with_it() -> None:
    nodes = Nodes(attic=node(), cellar=node(backends={"b1": {"id": "b1"}}))
    found = live(nodes)
    found.everything()
    del nodes.told["cellar"]
    patches = {event.kind: event.fields["patch"] for event in heard(found)}
    assert patches["backends"] == {"cellar.b1": None}
    assert patches["proxy"]["nodes"] == {"cellar": None}
    assert patches["memory"]["hosts"] == {"cellar": None}


def test_other_policies_or_files_anywhere_have_the_models_looked_at() -> None:
    nodes = Nodes(attic=node(), cellar=node())
    found = live(nodes)
    before = found.everything()["proxy"]["models_seen"]
    assert found.everything()["proxy"]["models_seen"] == before
    nodes.told["cellar"] = node(generation=2)
    assert found.everything()["proxy"]["models_seen"] == before + 1
    del nodes.told["cellar"]
    assert found.everything()["proxy"]["models_seen"] == before + 2


def test_what_happened_on_a_node_is_kept_with_its_name_and_its_time() -> None:
    found = live(Nodes(attic=node()))
    at = "2026-01-01T00:00:00+00:00"
    found.happened("attic", {"id": 71, "at": at, "kind": "moved", "backend": "b1", "layers": 2})
    (event,) = found.events.since(0)
    assert event.to_json() == {
        "id": 1,
        "at": at,
        "kind": "moved",
        "backend": "attic.b1",
        "layers": 2,
        "node": "attic",
    }


def test_what_is_soon_old_is_told_and_not_kept() -> None:
    found = live(Nodes(attic=node()))
    with found.events.subscribe() as subscription:
        found.happened("attic", {"at": "now", "kind": "moving", "backend": "b1", "to": 3})
        (event,) = subscription._queue
    assert (event.id, event.fields["backend"]) == (0, "attic.b1")
    assert found.events.since(0) == []


def test_what_a_front_has_missed_is_nothing_that_its_followers_have() -> None:
    """They would begin anew for it, each time that a front comes to a node."""
    found = live(Nodes(attic=node()))
    found.happened("attic", {"id": 50, "at": "now", "kind": "lost", "count": 49})
    assert found.events.last_id == 0


values = st.none() | st.integers(0, 3) | st.lists(st.integers(0, 2), max_size=2)
things = st.dictionaries(st.sampled_from("xyz"), st.fixed_dictionaries({"v": values}), max_size=3)
states = st.dictionaries(
    st.sampled_from(["attic", "cellar", "desk"]), st.tuples(things, things, things), max_size=3
)


@given(st.lists(states, min_size=2, max_size=5))
def test_who_puts_all_patches_on_what_it_began_with_has_what_there_is(
    steps: list[dict[str, tuple[Any, Any, Any]]],
) -> None:
    nodes = Nodes()
    found = live(nodes)
    mine: Any = None
    for step in steps:
        with found.events.subscribe() as subscription:
            nodes.told = {
                name: node(
                    backends={k: {"id": k, **v} for k, v in backends.items()},
                    requests={k: {"id": k, **v} for k, v in requests.items()},
                    memory={"devices": {k: {"name": k, **v} for k, v in devices.items()}},
                )
                for name, (backends, requests, devices) in step.items()
            }
            now = found.everything()
            mine = now if mine is None else mine
            for event in subscription._queue:
                mine = {**mine, event.kind: put_on(mine[event.kind], event.fields["patch"])}
        assert no_nulls(mine) == no_nulls(now)


@pytest.mark.parametrize(
    "odd",
    [
        {"proxy": {}},
        {"proxy": {"instance": "1", "models_seen": 1, "policies": 5}},
        {"proxy": {**node()["proxy"], "degraded": [5]}},
        {"backends": {"b1": 5}},
        {"backends": {"b1": {"model": "m"}}},
        {"requests": {"r": []}},
        {"memory": {"devices": [1]}},
    ],
)
def test_a_node_that_tells_something_else_is_left_out_and_others_are_shown(odd: State) -> None:
    request = {"id": "r", "model": "m"}
    nodes = Nodes(attic=node(requests={"r": request}), cellar={**node(), **odd})
    made = live(nodes)

    assert [*made.everything()["requests"]] == ["attic.r"]
    nodes.told["cellar"] = node(requests={"r": request})
    assert [*made.everything()["requests"]] == ["attic.r", "cellar.r"]
