"""Which of Ray's machines are to be nodes."""

from types import SimpleNamespace
from typing import Any

import pytest

from proxy.fleet.cluster import machines
from proxy.fleet.cluster.machines import chosen
from proxy.fleet.names import APPLICATION


def ray_node(name: str, *, ours: float = 0, alive: bool = True) -> dict[str, Any]:
    return {
        "NodeID": name,
        "Alive": alive,
        "Resources": {"moe_proxy": ours} if ours else {"CPU": 1},
    }


def test_those_that_have_our_resource_are_nodes() -> None:
    assert chosen([ray_node("a", ours=1), ray_node("b"), ray_node("c", ours=1)]) == {"a", "c"}


def test_where_none_has_it_all_are() -> None:
    assert chosen([ray_node("a"), ray_node("b")]) == {"a", "b"}


@pytest.mark.parametrize(("status", "is_there"), [("RUNNING", True), ("DELETING", False)])
def test_what_was_told_to_end_is_not_there_any_more(
    monkeypatch: pytest.MonkeyPatch, status: str, is_there: bool
) -> None:
    told = SimpleNamespace(applications={APPLICATION: SimpleNamespace(status=status)})
    monkeypatch.setattr(machines, "_serve", lambda: SimpleNamespace(status=lambda: told))

    assert machines.is_deployed() is is_there


def test_a_machine_that_is_gone_is_none() -> None:
    assert chosen([ray_node("a", ours=1, alive=False), ray_node("b")]) == {"b"}
