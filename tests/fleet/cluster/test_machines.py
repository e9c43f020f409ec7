"""Which of Ray's machines are to be nodes."""

from types import SimpleNamespace
from typing import Any

import pytest

from proxy.fleet.cluster import machines
from proxy.fleet.cluster.machines import chosen, of_deployment
from proxy.fleet.names import APPLICATION


def ray_node(name: str, *, ours: float = 0, alive: bool = True) -> dict[str, Any]:
    return {
        "NodeID": name,
        "Alive": alive,
        "Resources": {"moe_proxy": ours} if ours else {"CPU": 1},
    }


def told_by_serve(resources: dict[str, float] | None) -> dict[str, Any]:
    options = {"num_cpus": 0.0} | ({} if resources is None else {"resources": resources})
    deployment = {"deployment_config": {"ray_actor_options": options}}
    return {"applications": {"moe-proxy": {"deployments": {"Supervisor": deployment}}}}


def test_those_that_have_our_resource_are_nodes() -> None:
    nodes = [ray_node("a", ours=1), ray_node("b"), ray_node("c", ours=1)]

    assert chosen(nodes, by_resource=True) == {"a", "c"}


def test_one_that_joins_with_our_resource_puts_nobody_out_who_is_in_without_it() -> None:
    assert chosen([ray_node("a"), ray_node("b", ours=1)], by_resource=False) == {"a", "b"}


def test_where_the_last_that_has_it_is_gone_nobody_else_is_in() -> None:
    assert chosen([ray_node("a", ours=1, alive=False), ray_node("b")], by_resource=True) == set()


def test_who_is_in_is_known_by_how_the_fleet_was_deployed() -> None:
    assert of_deployment(told_by_serve({"moe_proxy": 1.0})) is True
    assert of_deployment(told_by_serve({})) is False
    assert of_deployment(told_by_serve(None)) is False
    assert of_deployment({"applications": {}}) is None


@pytest.mark.parametrize(("status", "is_there"), [("RUNNING", True), ("DELETING", False)])
def test_what_was_told_to_end_is_not_there_any_more(
    monkeypatch: pytest.MonkeyPatch, status: str, is_there: bool
) -> None:
    told = SimpleNamespace(applications={APPLICATION: SimpleNamespace(status=status)})
    monkeypatch.setattr(machines, "_serve", lambda: SimpleNamespace(status=lambda: told))

    assert machines.is_deployed() is is_there


def test_a_machine_that_is_gone_is_none() -> None:
    nodes = [ray_node("a", ours=1, alive=False), ray_node("b")]

    assert chosen(nodes, by_resource=False) == {"b"}
