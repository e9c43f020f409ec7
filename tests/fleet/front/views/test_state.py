"""The state of a fleet, out of its nodes'."""

from typing import Any

from proxy.fleet.front.views import state as views

OWN = {"version": "1", "uptime_s": 2.0, "nodes": []}


def said(**more: Any) -> dict[str, Any]:
    """What a node says, with nothing loaded."""
    return {
        "version": "1",
        "devices": [],
        "host": {"total_bytes": 100, "available_bytes": 40, "limit_bytes": None, "pressure": 0.0,
                 "problem": None},
        "backends": [],
        "warm_workers": {"wanted": 1, "ready": 1},
        "queue": {"waiting": 0, "max": 512},
        "requests": [],
        "policies": {"generation": 1, "files": ["/p/a.toml"], "problems": [],
                     "waiting_for_restart": []},
        "keys": [],
        "unusable_models": [],
        "degraded": [],
        **more,
    }  # fmt: skip


def made(**told: dict[str, Any]) -> dict[str, Any]:
    return views.fleet_state(told, "attic", OWN)


def test_it_has_all_that_a_single_proxy_says_and_its_own() -> None:
    found = made(attic=said())
    assert found.keys() == said().keys() | OWN.keys()
    assert found["version"] == "1"


def test_devices_of_one_name_are_both_there() -> None:
    found = made(
        attic=said(devices=[{"name": "CUDA0", "free_bytes": 1}]),
        cellar=said(devices=[{"name": "CUDA0", "free_bytes": 2}]),
    )
    assert found["devices"] == [
        {"name": "CUDA0", "free_bytes": 1, "node": "attic"},
        {"name": "CUDA0", "free_bytes": 2, "node": "cellar"},
    ]


def test_backends_and_requests_of_one_id_are_told_apart() -> None:
    one = said(
        backends=[{"id": "b1", "model": "m"}],
        requests=[{"id": "r", "backend": "b1"}, {"id": "s", "backend": None}],
    )
    found = made(attic=one, cellar=one)
    assert [b["id"] for b in found["backends"]] == ["attic.b1", "cellar.b1"]
    assert [(r["id"], r["backend"], r["node"]) for r in found["requests"]] == [
        ("attic.r", "attic.b1", "attic"),
        ("attic.s", None, "attic"),
        ("cellar.r", "cellar.b1", "cellar"),
        ("cellar.s", None, "cellar"),
    ]


def test_what_there_is_one_of_on_a_machine_is_summed_up() -> None:
    short = {"total_bytes": 60, "available_bytes": 5, "limit_bytes": 50, "pressure": 0.3,
             "problem": "it swaps"}  # fmt: skip
    found = made(attic=said(), cellar=said(host=short, queue={"waiting": 3, "max": 8}))
    assert found["host"] == {
        "total_bytes": 160,
        "available_bytes": 45,
        "limit_bytes": 150,
        "pressure": 0.3,
        "problem": "cellar: it swaps",
    }
    assert found["queue"] == {"waiting": 3, "max": 520}
    assert found["warm_workers"] == {"wanted": 2, "ready": 2}


def test_what_no_node_knows_is_not_known() -> None:
    assert views.host({}) == {
        "total_bytes": None,
        "available_bytes": None,
        "limit_bytes": None,
        "pressure": None,
        "problem": None,
    }
    unknown = views.host({"a": {"total_bytes": None, "pressure": None}, "b": {"total_bytes": 7}})
    assert (unknown["total_bytes"], unknown["pressure"]) == (7, None)


def test_nobody_answers() -> None:
    found = made()
    assert (found["devices"], found["backends"], found["queue"]) == (
        [],
        [],
        {"waiting": 0, "max": 0},
    )
    assert found["policies"]["files"] == []


def test_policies_are_those_of_one_node_and_mistakes_of_all() -> None:
    everywhere = {"file": "a.toml", "line": 3, "key": "x", "message": "no"}
    there = {"file": "/q/a.toml", "line": 4, "key": "y", "message": "no"}
    first = {"generation": 4, "files": ["/p/a.toml"], "problems": [everywhere],
             "waiting_for_restart": ["server.port"]}  # fmt: skip
    other = {"generation": 9, "files": ["/q/a.toml"],
             "problems": [{**everywhere, "file": "/q/a.toml"}, there],
             "waiting_for_restart": []}  # fmt: skip
    found = made(cellar=said(policies=other), attic=said(policies=first))["policies"]
    assert (found["generation"], found["files"]) == (4, ["/p/a.toml"])
    assert found["waiting_for_restart"] == ["server.port"]
    assert {(p["line"], p["key"]) for p in found["problems"]} == {(3, "x"), (4, "y")}
    assert len(found["problems"]) == 2
    assert {p["node"] for p in found["problems"] if p["line"] == 4} == {"cellar"}


def test_policies_are_anothers_while_the_first_one_is_silent() -> None:
    assert made(cellar=said())["policies"]["files"] == ["/p/a.toml"]


def test_a_key_is_counted_wherever_it_was_used() -> None:
    def key(requests: int, refused: int, last_used: str | None) -> dict[str, Any]:
        return {"name": "k", "scope": "use", "requests_per_minute": 5, "requests": requests,
                "refused": refused, "last_used": last_used}  # fmt: skip

    found = made(
        attic=said(keys=[key(2, 1, "2026-01-01T00:00:00+00:00")]),
        cellar=said(keys=[key(3, 0, "2026-01-02T00:00:00.5+00:00")]),
        desk=said(keys=[key(0, 0, None)]),
    )["keys"]
    assert found == [key(5, 1, "2026-01-02T00:00:00.5+00:00")]


def test_what_is_wrong_somewhere_says_where() -> None:
    found = made(
        attic=said(degraded=[{"loop": "memory", "error": "no"}]),
        cellar=said(unusable_models=[{"where": "x.gguf", "why": "short"}]),
    )
    assert found["degraded"] == [{"loop": "memory", "error": "no", "node": "attic"}]
    assert found["unusable_models"] == [{"where": "x.gguf", "why": "short", "node": "cellar"}]


def test_a_node_of_an_older_release_is_shown_as_far_as_it_says() -> None:
    old = {key: value for key, value in said().items() if key not in ("keys", "warm_workers")}
    assert made(attic=old, cellar=said())["warm_workers"] == {"wanted": 1, "ready": 1}
