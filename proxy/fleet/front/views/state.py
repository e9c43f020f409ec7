"""`/admin/state` of a fleet, out of what its nodes say of themselves. Pure.

Each device, backend and request has its `node`; what there is one of on a machine is summed up.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from proxy.fleet.front.ids import marked, marked_with_id

Told = Mapping[str, Mapping[str, Any]]


def fleet_state(told: Told, home: str | None, own: Mapping[str, Any]) -> dict[str, Any]:
    """All of it. `home` is the node whose policies are shown; `own` is what the front knows of
    itself and of its nodes."""
    return {
        **own,
        "devices": _each(told, "devices", marked),
        "host": host(_one(told, "host")),
        "backends": _each(told, "backends", marked_with_id),
        "warm_workers": summed(said.get("warm_workers") or {} for said in told.values()),
        "queue": {"waiting": 0, "max": 0}
        | summed(said.get("queue") or {} for said in told.values()),
        "requests": _each(told, "requests", marked_with_id),
        "policies": policies(
            {node: said.get("policies") or {} for node, said in told.items()}, home
        ),
        "keys": keys(said.get("keys") or () for said in told.values()),
        "unusable_models": _each(told, "unusable_models", marked),
        "degraded": _each(told, "degraded", marked),
    }


def host(hosts: Told) -> dict[str, Any]:
    """Main memory of all machines together; the pressure is that of the one that has most."""
    return {
        "total_bytes": _sum(each.get("total_bytes") for each in hosts.values()),
        "available_bytes": _sum(each.get("available_bytes") for each in hosts.values()),
        # One that has no limit of its own has all of its memory.
        "limit_bytes": _sum(
            each.get("total_bytes") if each.get("limit_bytes") is None else each["limit_bytes"]
            for each in hosts.values()
        )
        if any(each.get("limit_bytes") is not None for each in hosts.values())
        else None,
        "pressure": max(
            (each["pressure"] for each in hosts.values() if each.get("pressure") is not None),
            default=None,
        ),
        "problem": "; ".join(
            f"{node}: {each['problem']}" for node, each in hosts.items() if each.get("problem")
        )
        or None,
    }


def summed(numbers: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Numbers by their names, each summed up."""
    found: dict[str, int] = {}
    for each in numbers:
        for name, number in each.items():
            found[name] = found.get(name, 0) + number
    return found


def queue(told: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Who waits anywhere."""
    return {"waiting": 0, "max": 0} | summed(told)


def policies(told: Told, home: str | None) -> dict[str, Any]:
    """Those of one node, which are everybody's; what is wrong, wherever it is, once."""
    said = told.get(home or "") or next(iter(told.values()), {})
    problems: dict[tuple[object, ...], dict[str, Any]] = {}
    for node, each in told.items():
        for problem in each.get("problems") or ():
            # The same file may lie in another folder there.
            name = PurePath(problem.get("file") or "").name
            which = (name, problem.get("line"), problem.get("key"), problem.get("message"))
            problems.setdefault(which, {**problem, "node": node})
    return {
        "generation": said.get("generation", 0),
        "files": list(said.get("files") or ()),
        "problems": list(problems.values()),
        "waiting_for_restart": list(said.get("waiting_for_restart") or ()),
    }


def keys(told: Iterable[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """What was made of each API key on all nodes together. A limit holds on each by itself."""
    found: dict[str, dict[str, Any]] = {}
    for said in told:
        for key in said:
            known = found.setdefault(
                key["name"], {**key, "requests": 0, "refused": 0, "last_used": None}
            )
            known["requests"] += key["requests"]
            known["refused"] += key["refused"]
            used = [each for each in (known["last_used"], key["last_used"]) if each]
            known["last_used"] = max(used, default=None)  # all in UTC, all of one length
    return list(found.values())


def _each(told: Told, key: str, mark: Any) -> list[dict[str, Any]]:
    return [mark(node, each) for node, said in told.items() for each in said.get(key) or ()]


def _one(told: Told, key: str) -> dict[str, Mapping[str, Any]]:
    return {node: said.get(key) or {} for node, said in told.items()}


def _sum(numbers: Iterable[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None
