"""The commands that need no running proxy.

Each imports what only it needs: `ps` should not take the time to load a server.
"""

import sys
from argparse import Namespace

from proxy.cli import output
from proxy.cli.admin import client_of
from proxy.cli.client import default_identity, default_key, default_url
from proxy.cli.output import FAILED, MISUSED, OK, print_result
from proxy.errors import NotFound, ProxyError
from proxy.split import plain


def demo(arguments: Namespace) -> int:
    from proxy.demo.run import main as show

    at_a_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    return int(show(keep=at_a_terminal if arguments.keep is None else arguments.keep))


def rpc_server(arguments: Namespace) -> int:
    from proxy.cli.rpc_server import rpc_server as lend

    return lend(arguments)


def run(arguments: Namespace) -> int:
    from proxy.cli.run import run as talk

    return talk(arguments)


def check(arguments: Namespace) -> int:
    from proxy.cli.check import check as look

    return look(arguments)


def plan(arguments: Namespace) -> int:
    from proxy.cli.bars import in_colour
    from proxy.cli.plan import answer
    from proxy.cli.plan_text import plan_text

    split = arguments.moe_cpu_layers
    given = {
        "vram": arguments.vram,
        "ctx": arguments.ctx,
        "parallel": arguments.parallel,
        "kv": arguments.kv,
        "ubatch": arguments.ubatch,
        "tune": arguments.tune,
        "moe_cpu_layers": None if split is None else plain(split),
    }
    asked = {name: str(value) for name, value in given.items() if value is not None}
    try:
        found = answer(arguments.model, asked, client_of(arguments), arguments.policies)
    except ProxyError as error:
        output.error(error)
        return FAILED if isinstance(error, NotFound) else MISUSED
    print_result(arguments, found, lambda: plan_text(found, colours=in_colour(sys.stdout)))
    return OK if found["fits"] else FAILED


def bench(arguments: Namespace) -> int:
    from proxy.bench.measure import Question
    from proxy.cli.bars import in_colour
    from proxy.cli.bench import BenchError, in_json, in_text
    from proxy.cli.bench import bench as measure

    question = Question(
        model=arguments.model,
        policies=arguments.policies,
        splits=arguments.splits,
        ctx=arguments.ctx,
        prompt=arguments.prompt,
        tokens=arguments.tokens,
        rounds=arguments.rounds,
    )
    try:
        curve = measure(question, client_of(arguments), picture=arguments.plot)
    except BenchError as error:
        output.error(error)
        return FAILED
    colours = in_colour(sys.stdout)
    return print_result(arguments, in_json(curve), lambda: in_text(curve, colours=colours))


def pull_or_create(arguments: Namespace) -> int:
    from proxy.cli.progress import ProgressBar
    from proxy.cli.pull import create, pull
    from proxy.cli.pull_remote import Remote

    url = arguments.url or default_url()
    remote = Remote(url, default_key(), default_identity(url), arguments.node)
    show = ProgressBar(as_json=arguments.json).show
    if arguments.command == "pull":
        pull(arguments.model, remote, show, insecure=arguments.insecure)
    else:
        create(arguments.model, arguments.file, remote, show, quantize=arguments.quantize)
    return OK
