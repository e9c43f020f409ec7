"""Which of Ray's machines are to be nodes."""

from typing import Any

from proxy.fleet.cluster.machines import chosen


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


def test_a_machine_that_is_gone_is_none() -> None:
    assert chosen([ray_node("a", ours=1, alive=False), ray_node("b")]) == {"b"}
