"""What the commands of a fleet tell, as people read it. Pure."""

import re
from typing import Any

from proxy.cli.text import refused
from proxy.fleet.cluster.commands import Seen
from proxy.fleet.cluster.directory import Report
from proxy.node.names import usable_name
from proxy.text import gib, harmless, table


def status_table(seen: Seen) -> str:
    """Its nodes, then what is to be known of some of them."""
    rows = [
        [
            each.name,
            _state(seen, each),
            each.front or "-",
            each.address or "-",
            _models(seen.states.get(each.name)),
            _devices(seen.states.get(each.name)),
            _in_flight(seen.states.get(each.name)),
        ]
        for each in seen.reports
    ]
    head = ["NODE", "STATE", "ADDRESS", "MACHINE", "LOADED", "DEVICES FREE", "IN FLIGHT"]
    remarks = [f"{each.name}: {harmless(each.says)}" for each in seen.reports if each.says]
    remarks += [
        f"{name}: {harmless(state)}"
        for name, state in seen.states.items()
        if isinstance(state, str)
    ]
    remarks += [
        text
        for name, state in seen.states.items()
        if isinstance(state, dict) and (text := refused(_problems(name, state)))
    ]
    remarks += [
        f"{each.name}: nothing was heard of its machine's supervisor for that time; Ray puts "
        "another one in its place, or the machine is cut off"
        for each in seen.reports
        if seen.is_old(each)
    ]
    if (missing := seen.machines - len(seen.reports)) > 0:
        who = "1 more machine of the cluster has" if missing == 1 else None
        who = who or f"{missing} more machines of the cluster have"
        remarks.append(f"{who} said nothing yet")
    else:
        remarks += [
            f"[nodes.{name}] of the policies has no effect: there is no node {name!r}"
            for name in _strangers(seen)
        ]
    logs = [f"logs of {each.name}: {each.logs}" for each in seen.reports if each.logs]
    return "\n".join([table(head, rows), *remarks, *logs])


def up_text(seen: Seen) -> str:
    """A line for each node, and where to ask on this machine."""
    lines = [f"{each.name} {each.state} {each.front or ''}".rstrip() for each in seen.reports]
    here = next((each.front for each in seen.reports if each.machine == seen.own), None)
    return "\n".join([*lines, *([f"use {here} on this machine"] if here else [])])


def called_text(given: str | None, host: str, seen: Seen) -> str:
    """Why this machine's node is called otherwise than was said, by `given` or by its host's name;
    "" where it is not."""
    got = next((each.name for each in seen.reports if each.machine == seen.own), None)
    usable = usable_name(given or host)
    if got is None or got == (given or usable):
        return ""
    if got == usable:
        why = "names of nodes have small letters, digits and hyphens alone"
    elif re.fullmatch(re.escape(usable) + "-[0-9]+", got):
        why = f"there is another {usable} in the fleet, or was a moment ago"
    elif given is None:
        return ""  # it was given one before
    else:
        why = (
            f"it keeps the name that it has; to have {usable}: moe-proxy fleet down --here, then up"
        )
    return f"this machine's node is called {got}: {why}. [nodes.{got}] is its part of the policies"


def drained_so_far(report: Report) -> str:
    return f"{report.name} {report.state}" + (f": {harmless(report.says)}" if report.says else "")


def _state(seen: Seen, report: Report) -> str:
    """What was told long ago may not be so any more."""
    old = seen.is_old(report)
    return f"{report.state} {seen.ages[report.name]:.0f} s ago" if old else report.state


def _problems(name: str, state: dict[str, Any]) -> list[Any]:
    return [problem | {"node": name} for problem in state["policies"]["problems"]]


def _strangers(seen: Seen) -> list[str]:
    """Who has a part of the policies, and is no node."""
    parts = {
        name
        for state in seen.states.values()
        if isinstance(state, dict)
        for name in state["policies"].get("nodes") or ()
    }
    return sorted(parts - {each.name for each in seen.reports})


def _models(state: Any) -> str:
    if not isinstance(state, dict):
        return "?" if state else "-"
    return ", ".join(dict.fromkeys(each["model"] for each in state["backends"])) or "-"


def _devices(state: Any) -> str:
    if not isinstance(state, dict):
        return "-"
    return (
        ", ".join(
            f"{each['name']} {gib(each['free_bytes'])} of {gib(each['total_bytes'])}"
            for each in state["devices"]
        )
        or "-"
    )


def _in_flight(state: Any) -> str:
    if not isinstance(state, dict):
        return "-"
    return str(sum(each["in_flight"] for each in state["backends"]))
