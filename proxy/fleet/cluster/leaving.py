"""How `moe-proxy fleet down` ends a machine's part in a fleet, or the fleet. Blocking; as
`commands.py`."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from proxy.fleet.cluster import machines, own_ray
from proxy.fleet.cluster.commands import (
    FleetProblem,
    connected,
    drained,
    have_ray,
    ray_problems,
)
from proxy.fleet.cluster.seen import ANSWER_S
from proxy.fleet.cluster.turn import turn
from proxy.text import in_words

IN_NONE: Final = "no Ray runs on this machine, so it is in no fleet"


class NotWanted(FleetProblem):
    """It was asked whether it is wanted."""


def leave(env: Mapping[str, str], say: Callable[[str], None], sure: Callable[[str], bool]) -> None:
    """This machine is out of the fleet once it is drained; the others go on. Where they cannot,
    well, since it is their first machine, `sure` is told so, and says whether it is wanted."""
    have_ray()
    with turn(own_ray.folder(env), say):
        _leave(env, say, sure)


def _leave(env: Mapping[str, str], say: Callable[[str], None], sure: Callable[[str], bool]) -> None:
    own = own_ray.started(env)
    if own is None:
        with ray_problems():
            if not own_ray.connect(env):
                raise FleetProblem(IN_NONE)
        raise FleetProblem("Ray on this machine was not started by us: ray stop")
    try:
        with ray_problems():
            directory = connected(env)
            here = own_ray.own_machine(env)
            others = machines.others() if machines.is_head(here) else 0
            if others and not sure(head_text(others)):
                raise NotWanted("nothing was done; --yes does it all the same")
            for name in _own_names(directory, here):
                for report in drained(directory, name):
                    say(f"{name} {report.state} {report.says}".rstrip())
    except NotWanted:
        raise
    except FleetProblem as problem:  # it leaves all the same
        say(str(problem))
    say("ending Ray on this machine")
    own_ray.end(own, env)


def _own_names(directory: Any, own: str) -> list[str]:
    """Of this machine's node, if it has one."""
    import ray

    reports = ray.get(machines.asked(directory, "status"), timeout=ANSWER_S)["reports"]
    return [report.name for report in reports if report.machine == own]


def head_text(others: int) -> str:
    """Pure."""
    where = in_words(others, "other machine")
    return (
        f"this is the fleet's first machine: without it {where} can only answer. No policy goes "
        "from one to another, nobody joins, drains or is replaced, and when `moe-proxy fleet up` "
        "has begun it again here, they begin anew. The end of all of it: moe-proxy fleet down"
    )


def down(env: Mapping[str, str], say: Callable[[str], None]) -> None:
    """End the fleet: its nodes, as their policies say, and Ray where we have started it."""
    have_ray()
    with turn(own_ray.folder(env), say):
        _down(env, say)


def _down(env: Mapping[str, str], say: Callable[[str], None]) -> None:
    own = own_ray.started(env)
    was_there, others = False, 0
    try:
        with ray_problems():
            if not own_ray.connect(env):
                raise FleetProblem(IN_NONE)
            others = machines.others()
            if was_there := machines.is_there():
                where = in_words(others + 1, "machine")
                say(f"ending the nodes of {where}; what runs there may finish first")
                machines.remove()
    except FleetProblem as problem:
        if own is None:
            raise
        say(str(problem))
    if own is not None:
        say("ending Ray on this machine")
        own_ray.end(own, env)
        if others:
            say("Ray goes on on the other machines: moe-proxy fleet down --here, there")
    elif not was_there:
        raise FleetProblem("there is no fleet in the Ray that runs here: moe-proxy fleet up")
    else:
        say("Ray goes on, as it was not started by us: ray stop")
