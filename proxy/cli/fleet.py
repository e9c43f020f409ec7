"""The commands of `moe-proxy fleet`."""

import os
import socket
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict
from functools import partial, wraps

from proxy.cli import output
from proxy.cli.fleet_text import called_text, drained_so_far, status_table, up_text
from proxy.cli.output import OK, ClientError, print_result
from proxy.errors import reason_of
from proxy.fleet.cluster import commands, leaving
from proxy.fleet.cluster.commands import FleetProblem, Wanted
from proxy.node.names import NODE_VARIABLE


def _told(command: Callable[[Namespace], int]) -> Callable[[Namespace], int]:
    @wraps(command)
    def run(arguments: Namespace) -> int:
        try:
            return command(arguments)
        except FleetProblem as problem:
            raise ClientError(str(problem)) from problem
        except BrokenPipeError:
            raise
        except OSError as error:  # of a disk: the folder of its records, policies
            where = f"{error.filename}: " if error.filename else ""
            raise ClientError(f"{where}{reason_of(error)}") from error

    return run


@_told
def up(arguments: Namespace) -> int:
    wanted = Wanted(
        arguments.head,
        arguments.host,
        arguments.port,
        arguments.policies,
        arguments.name,
        arguments.ray_port,
    )
    seen = commands.up(wanted, os.environ, output.info)
    output.say(up_text(seen))
    given = arguments.name or os.environ.get(NODE_VARIABLE)
    if called := called_text(given, socket.gethostname(), seen):
        output.info(called)
    if arguments.head is None and (hint := commands.how_to_join(os.environ)):
        output.info(hint)
    return OK


@_told
def status(arguments: Namespace) -> int:
    seen = commands.status(os.environ)
    value = {
        "machines": seen.machines,
        "nodes": [
            {name: each for name, each in asdict(report).items() if name != "setup"}
            | {"drains": report.name in seen.draining}
            | {"age_s": round(seen.ages.get(report.name, 0.0), 1)}
            | {"node": seen.states.get(report.name)}
            for report in seen.reports
        ],
    }
    return print_result(arguments, value, lambda: status_table(seen))


@_told
def drain(arguments: Namespace) -> int:
    """Ctrl-C leaves it draining."""
    told = commands.drain(
        arguments.node, os.environ, within_s=arguments.timeout, undo=arguments.undo
    )
    try:
        for report in told:
            output.say(drained_so_far(report))
    except KeyboardInterrupt:
        output.info(f"it goes on; moe-proxy fleet status says how far {arguments.node} is")
        raise
    return OK


@_told
def down(arguments: Namespace) -> int:
    if arguments.here:
        leaving.leave(os.environ, output.info, partial(_sure, arguments.yes))
    else:
        leaving.down(os.environ, output.info)
    return OK


def _sure(yes: bool, what: str) -> bool:
    """Said by --yes, or at a terminal."""
    output.info(what)
    if yes:
        return True
    if not sys.stdin.isatty():
        return False
    output.info("Do it all the same? [y/N]")
    return sys.stdin.readline().strip().lower() in ("y", "yes")
