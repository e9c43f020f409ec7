"""Lists of several nodes as one."""

from typing import Any

import pytest

from proxy.fleet.front.views import lists


def model(name: str, created: int, **more: Any) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, **more}


def tag(name: str, modified_at: str) -> dict[str, Any]:
    return {"name": name, "model": name, "modified_at": modified_at}


def test_a_name_is_there_once_and_the_youngest_first() -> None:
    made = lists.models(
        {
            "attic": {"data": [model("b", 30), model("a", 10)]},
            "cellar": {"data": [model("c", 20), model("a", 10)]},
        }
    )
    assert [(each["id"], each["nodes"]) for each in made["data"]] == [
        ("b", ["attic"]),
        ("c", ["cellar"]),
        ("a", ["attic", "cellar"]),
    ]
    assert (made["object"], made["has_more"]) == ("list", False)
    assert (made["first_id"], made["last_id"]) == ("b", "a")


def test_of_one_age_they_are_in_the_order_of_their_names() -> None:
    """As a single proxy has them, whichever node has which."""
    made = lists.models({"a": {"data": [model("y", 1)]}, "b": {"data": [model("x", 1)]}})
    assert [each["id"] for each in made["data"]] == ["x", "y"]


@pytest.mark.parametrize("order", [("old", "new"), ("new", "old")])
def test_the_youngest_file_of_a_name_is_described(order: tuple[str, str]) -> None:
    said = {
        "old": {"data": [model("m", 1, meta="old")]},
        "new": {"data": [model("m", 2, meta="new")]},
    }
    made = lists.models({node: said[node] for node in order})
    assert [(each["meta"], each["created"], each["nodes"]) for each in made["data"]] == [
        ("new", 2, list(order))
    ]


def test_nothing_anywhere_is_an_empty_list() -> None:
    assert lists.models({})["data"] == lists.models({"a": {"data": []}})["data"] == []
    assert lists.models({})["first_id"] is None
    assert lists.tags({"a": {"models": None}}) == {"models": []}
    assert lists.ps({}) == {"models": []}
    assert lists.running({}) == {"running": []}


def test_tags_are_by_the_time_and_not_by_its_digits() -> None:
    made = lists.tags(
        {
            "attic": {"models": [tag("a:latest", "2026-01-02T03:04:05Z")]},
            "cellar": {"models": [tag("b:latest", "2026-01-02T03:04:05.25Z")]},
            "desk": {"models": [tag("a:latest", "2026-01-02T03:04:04.999999999Z")]},
        }
    )
    assert [(each["name"], each["nodes"]) for each in made["models"]] == [
        ("b:latest", ["cellar"]),
        ("a:latest", ["attic", "desk"]),
    ]
    assert made["models"][1]["modified_at"] == "2026-01-02T03:04:05Z"


def test_a_model_of_no_date_can_be_listed() -> None:
    made = lists.tags({"a": {"models": [tag("x", "0001-01-01T00:00:00Z")]}})
    assert [each["name"] for each in made["models"]] == ["x"]


def test_a_model_that_two_nodes_have_loaded_is_there_twice() -> None:
    def loaded(expires_at: str) -> dict[str, Any]:
        return {"name": "m", "expires_at": expires_at, "backend": "b1"}

    made = lists.ps(
        {
            "attic": {"models": [loaded("2026-01-02T03:04:05Z")]},
            "cellar": {"models": [loaded("9999-12-31T23:59:59Z")]},
        }
    )
    assert [(each["node"], each["backend"]) for each in made["models"]] == [
        ("cellar", "cellar.b1"),
        ("attic", "attic.b1"),
    ]


def test_what_runs_has_its_node() -> None:
    runs = {"model": "m", "state": "ready"}
    made = lists.running({"attic": {"running": [runs]}, "cellar": {"running": [runs]}})
    assert made == {"running": [{**runs, "node": "attic"}, {**runs, "node": "cellar"}]}
