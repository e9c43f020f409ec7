"""What `moe-proxy fleet` does, without a word to anybody. Blocking; each raises FleetProblem for
what a person has to know."""

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from proxy.fleet.cluster import found_ray, machine, machines, own_ray
from proxy.fleet.cluster.directory import Report, Setup
from proxy.fleet.cluster.own_ray import RayProblem
from proxy.fleet.cluster.policy_sync import KEPT, folder_of, own_files
from proxy.fleet.cluster.seen import ANSWER_S, seen_of
from proxy.fleet.cluster.seen import Seen as Seen
from proxy.fleet.cluster.turn import turn
from proxy.node.names import NODE_VARIABLE
from proxy.policy.load import load

LOOK_S: Final = 0.5
# Until all nodes answer: each has to read its folders of models.
UP_S: Final = 180.0
# Until there is a fleet, where two machines are told to be one at the same time.
BEGINS_S: Final = 30.0
INSTALL: Final = "pip install 'moe-proxy[fleet]'"


class FleetProblem(Exception):
    """Why not, and what to do; for people."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What `fleet up` is told; None: as it is, or as usual."""

    head: str | None = None
    host: str | None = None
    port: int | None = None
    policies: Path | None = None
    name: str | None = None
    ray_port: int = own_ray.PORT


def up(wanted: Wanted, env: Mapping[str, str], say: Callable[[str], None]) -> Seen:
    """Have a fleet, with this machine in it, and return when its nodes answer. `say` is told what
    goes on."""
    have_ray()
    loaded = load(wanted.policies, env)
    if loaded.policies is None:
        problems = "\n".join(f"  {problem}" for problem in loaded.problems)
        raise FleetProblem(f"the policies have problems:\n{problems}")
    policies = folder_of(str(wanted.policies) if wanted.policies else None, env).absolute()
    setup = Setup(
        wanted.name,
        str(wanted.policies.absolute()) if wanted.policies else None,
        wanted.host,
        wanted.port,
    )
    with ray_problems():
        with turn(own_ray.folder(env), say):
            if began := not own_ray.connect(env):
                _start_ray(wanted, policies, env, say)
            elif wanted.head is not None:
                _check_head(wanted.head)
            own = own_ray.own_machine(env)
            first = wanted.head is None and not machines.is_deployed()
            if first:
                _begin(setup, policies, own, say)
            else:
                _until_there(env, began, say)
        if first:
            return _until_up(machines.directory(), own)
        before = _kept(policies)
        # A Ray that we have just started has it in its environment.
        seen = _more(Setup() if began else setup, own, say)
        if new := sorted(_kept(policies) - before):
            own_name = next((each.name for each in seen.reports if each.machine == own), "NAME")
            say(kept_text(new, own_name))
        return seen


def _kept(policies: Path) -> frozenset[Path]:
    folder = policies if policies.is_dir() else policies.parent
    return frozenset(folder.glob(f"*{KEPT}"))


def kept_text(files: Sequence[Path], node: str) -> str:
    """`node`: what this machine's is called. Pure."""
    were = "\n".join(f"  {file}" for file in files)
    return (
        "the fleet's policies are in force here; what this machine had under the same names is "
        f"kept, and does not count:\n{were}\n"
        f"what has to differ here (devices, folders of models) goes into [nodes.{node}] of the "
        "fleet's"
    )


def status(env: Mapping[str, str]) -> Seen:
    # Ray tells on standard output of what has just happened to its nodes, which is no part of this.
    with ray_problems(), redirect_stdout(sys.stderr):
        return asyncio.run(seen_of(connected(env), own_ray.own_machine(env)))


def drain(
    name: str, env: Mapping[str, str], *, within_s: float | None, undo: bool
) -> Iterator[Report]:
    """Yields what the node says, each time that it is something else, until it is drained (or is
    back)."""
    with ray_problems():
        yield from drained(connected(env), name, within_s=within_s, undo=undo)


def drained(
    directory: Any, name: str, *, within_s: float | None = None, undo: bool = False
) -> Iterator[Report]:
    import ray

    if why := ray.get(
        machines.asked(directory, "drain", name, not undo, within_s), timeout=ANSWER_S
    ):
        raise FleetProblem(why)
    said: tuple[str, str] | None = None
    end_s = time.monotonic() + UP_S
    while True:
        reports = ray.get(machines.asked(directory, "status"), timeout=ANSWER_S)["reports"]
        report = next((each for each in reports if each.name == name), None)
        if report is None:
            raise FleetProblem(f"the node {name} has left the fleet")
        if (report.state, report.says) != said:
            said = report.state, report.says
            yield report
        if report.state == ("ready" if undo else "drained"):
            return
        # A drain has a bound of its own, at the node; to be back is a start like any other.
        if undo and time.monotonic() > end_s:
            raise FleetProblem(
                f"{name} is still {report.state} after {UP_S:.0f} s; its supervisor may hang. It "
                "goes on trying: moe-proxy fleet status"
            )
        time.sleep(LOOK_S)


def _start_ray(
    wanted: Wanted, policies: Path, env: Mapping[str, str], say: Callable[[str], None]
) -> None:
    if wanted.head is None:
        own_ray.make_token(env)
        say("starting Ray on this machine")
    else:
        say(f"starting Ray on this machine, for the cluster at {with_port(wanted.head)}")
    given = {
        NODE_VARIABLE: wanted.name,
        machine.POLICIES_VARIABLE: str(policies),
        machine.HOST_VARIABLE: wanted.host,
        machine.PORT_VARIABLE: None if wanted.port is None else str(wanted.port),
    }
    ours = {name: value for name, value in given.items() if value is not None}
    head = None if wanted.head is None else with_port(wanted.head)
    # What was given by variables needs not be said again.
    own_ray.start(head, wanted.ray_port, {**os.environ, **env, **ours})
    if not own_ray.connect(env):
        raise RayProblem("Ray was started, and does not answer")


def _check_head(head: str) -> None:
    import ray

    here = ray.get_runtime_context().gcs_address
    if not found_ray.same(here, with_port(head)):
        raise FleetProblem(
            f"Ray runs on this machine already, in the cluster at {here}: leave that first "
            "(moe-proxy fleet down, or ray stop), or do without --head"
        )


def _begin(setup: Setup, policies: Path, own: str, say: Callable[[str], None]) -> None:
    """A fleet; this machine's policies are its."""
    import ray

    directory = machines.directory()
    ray.get(machines.asked(directory, "ready"), timeout=ANSWER_S)
    here = Setup(setup.name, str(policies), setup.host, setup.port)
    ray.get(machines.asked(directory, "setup", own, here), timeout=ANSWER_S)
    ray.get(machines.asked(directory, "seed", own_files(policies)), timeout=ANSWER_S)
    say("starting a node on each machine")
    arguments = {"host": setup.host or machine.FRONT_HOST}
    machines.deploy({**arguments, "port": setup.port or machine.FRONT_PORT})


def _until_there(env: Mapping[str, str], began: bool, say: Callable[[str], None]) -> None:
    """The fleet that this machine is to be in: its first machine may be about to begin it."""
    end_s = time.monotonic() + BEGINS_S
    said = False
    while not (machines.existing_directory() is not None and machines.is_deployed()):
        if time.monotonic() > end_s:
            if began and (own := own_ray.started(env)):
                own_ray.end(own, env)
            raise FleetProblem(
                "there is no fleet in that cluster yet: moe-proxy fleet up, on its first machine"
            )
        if not said:
            say(f"waiting for its first machine to begin the fleet, for {BEGINS_S:.0f} s at most")
        said = True
        time.sleep(LOOK_S)


def _more(setup: Setup, own: str, say: Callable[[str], None]) -> Seen:
    """A machine joins, or is back."""
    import ray

    directory = machines.directory()
    if own not in machines.wanted():
        raise FleetProblem(
            "Ray was started on this machine without --resources '{\"moe_proxy\": 1}', which other "
            "machines have: stop it here (ray stop), and let moe-proxy fleet up --head start it"
        )
    now = None
    if setup != Setup():
        now = ray.get(machines.asked(directory, "setup", own, setup), timeout=ANSWER_S)
    seen = _until_up(directory, own, setup=now, say=say)
    ours = [each for each in seen.reports if each.machine == own and each.name in seen.draining]
    for report in ours:
        say(f"bringing {report.name} back")
        ray.get(machines.asked(directory, "drain", report.name, False, None), timeout=ANSWER_S)
    return _until_up(directory, own, back=report.name) if ours else seen


def _until_up(
    directory: Any,
    own: str,
    *,
    back: str | None = None,
    setup: Setup | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Seen:
    """`back`: one that has drained, and is not to any more. `setup`: how this machine's is to be
    set up; what it had before does not count."""
    end_s = time.monotonic() + UP_S
    said = False
    while True:
        seen = asyncio.run(seen_of(directory, own))
        others = [each for each in seen.reports if is_other(each, own, setup)]
        if others and not said:
            say("the node and the front of this machine begin again, set up as said now")
            said = True
        waiting = [
            each
            for each in seen.reports
            if each.state == "starting"
            or (each.name == back and each.state != "ready")
            or seen.is_silent(each)
            or each in others
        ]
        if len(seen.reports) >= seen.machines > 0 and not waiting:
            return seen
        if time.monotonic() > end_s:
            told = "; ".join(f"{each.name}: {each.says or each.state}" for each in waiting)
            raise FleetProblem(
                f"{len(seen.reports) - len(waiting)} of {seen.machines} nodes answer after "
                f"{UP_S:.0f} s ({told or 'the others have said nothing yet'}). It goes on "
                "trying: moe-proxy fleet status"
            )
        time.sleep(LOOK_S)


def is_other(report: Report, own: str, setup: Setup | None) -> bool:
    """Whether that is this machine's, and set up in another way. Pure."""
    return report.machine == own and setup is not None and (report.setup or Setup()) != setup


def connected(env: Mapping[str, str]) -> Any:
    """The directory of the fleet that this machine is in."""
    have_ray()
    if not own_ray.connect(env):
        raise FleetProblem("no Ray runs on this machine: moe-proxy fleet up")
    directory = machines.existing_directory()
    if directory is None:
        raise FleetProblem("there is no fleet in the Ray that runs here: moe-proxy fleet up")
    return directory


def have_ray() -> None:
    # Not imported yet: with that, Ray reads what it is to show to others.
    if find_spec("ray") is None or find_spec("fastapi") is None:
        raise FleetProblem(f"a fleet needs Ray, which is not installed: {INSTALL}")
    logging.getLogger("ray").setLevel(logging.ERROR)


@contextmanager
def ray_problems() -> Iterator[None]:
    """Ray's errors as ours; ends what we had with it."""
    try:
        yield
    except RayProblem as error:
        raise FleetProblem(str(error)) from error
    except Exception as error:
        if not type(error).__module__.startswith("ray.") and not isinstance(error, TimeoutError):
            raise
        why = " ".join(str(error).split())[:300]
        raise FleetProblem(f"Ray does not do what it was asked for: {why or error!r}") from error
    finally:
        if "ray" in sys.modules:
            import ray

            ray.shutdown()


def with_port(head: str) -> str:
    """HOST[:PORT] with Ray's usual port. Pure."""
    host, _, port = head.rpartition(":")
    return head if host and port.isdecimal() else f"{head.rstrip(':')}:{own_ray.PORT}"


def how_to_join(env: Mapping[str, str]) -> str:
    """What to run on another machine; "" where none gets to this one's Ray."""
    address, token = own_ray.address_of(env), own_ray.use_token(env)
    return "" if address is None else join_text(address, token)


def join_text(address: str, token: str | None) -> str:
    """ "" where no other machine gets there. Pure."""
    try:
        host, _ = found_ray.parts_of(address)
    except ValueError:
        return ""
    if host == "localhost" or host == "::1" or host.startswith("127."):
        return ""
    before = f"RAY_AUTH_TOKEN={token} " if token else ""
    return f"on each other machine: {INSTALL}\n  {before}moe-proxy fleet up --head {address}"
