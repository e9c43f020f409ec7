"""The command `moe-proxy`: what its command line may say, and which function answers it."""

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from proxy.cli import options, output
from proxy.cli.misused import too_much, unknown
from proxy.cli.output import FAILED, MISUSED, OK, ClientError
from proxy.errors import reason_of
from proxy.observe.log import LEVELS
from proxy.version import own_version

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status: 0 done, 1 refused or not found, 2 used or set up
    wrongly.
    """
    output.have_streams()
    try:
        status = _main(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()  # what cannot be written is to be known now
        return status
    except KeyboardInterrupt:  # whenever it comes
        return INTERRUPTED
    except BrokenPipeError:
        output.say_no_more()  # whoever read our output has had enough of it
        return OK
    except OSError as error:
        if error.errno not in output.NO_ROOM:
            raise
        output.say_no_more()
        output.error(f"what it says cannot be written: {reason_of(error)}")
        return FAILED


def _main(words: Sequence[str]) -> int:
    parser, commands = _parser()
    if words and not words[0].startswith("-") and words[0] not in commands:
        parser.error(unknown(words[0], commands))
    arguments, more = parser.parse_known_args(words)
    if more:
        its = commands.get(arguments.command or "", parser)
        its.error(too_much(more, re.findall(r"--[\w-]+", its.format_help())))
    if arguments.command is None:
        parser.print_help(sys.stderr)
        return MISUSED
    del parser, commands  # `serve` runs for months
    try:
        return function_of(arguments.run)(arguments)
    except ClientError as error:
        output.error(error)
        return FAILED


def function_of(run: str) -> Callable[[argparse.Namespace], int]:
    """The function that answers a command, by "MODULE:NAME"."""
    module, _, name = run.partition(":")
    function: Callable[[argparse.Namespace], int] = getattr(
        import_module(f"proxy.cli.{module}"), name
    )
    return function


def _parser() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """The parser, and those of the commands by each of their names."""
    parser = argparse.ArgumentParser(
        prog="moe-proxy",
        description="Serves mixture-of-experts models and moves their experts while they answer.",
        epilog="First steps: moe-proxy demo, or moe-proxy serve and, beside it, moe-proxy models. "
        "What a command takes: moe-proxy COMMAND --help. Exit status: 0 done, 1 refused or not "
        "found, 2 used or set up wrongly.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"moe-proxy {own_version()}")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command")

    serve = _command(commands, "serve", "start:serve", "serve models")
    serve.add_argument("--host", help="address to listen on, or several: A,B")
    serve.add_argument("--port", type=options.port, help="port to listen on")
    options.add_policies(serve)
    serve.add_argument("--log-format", choices=("console", "json"), default="console")
    serve.add_argument("--log-level", choices=LEVELS, default="info")

    demo = _command(
        commands, "demo", "local:demo", "a small model whose experts move while it answers"
    )
    demo.add_argument(
        "--keep",
        action=argparse.BooleanOptionalAction,
        help="leave it running at the end (without this: at a terminal)",
    )

    check = _command(commands, "check", "local:check", "check the policies")
    options.add_policies(check)
    check.add_argument("--node", metavar="NAME", help="what holds on this node of a fleet")
    options.add_json(check)

    _add_rpc_server(commands)
    _add_client_commands(commands)
    _add_plan(commands)
    _add_bench(commands)
    _add_pull_and_create(commands)
    _add_service(commands)
    _add_fleet(commands)
    _add_completion(commands)
    return parser, commands.choices


def _add_rpc_server(commands: Any) -> None:
    text = "lend this machine's memory and processor to models, here or on another machine"
    server = _command(commands, "rpc-server", "local:rpc_server", text)
    server.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    server.add_argument("--port", type=options.port, default=50052, help="(50052)")
    server.add_argument("--threads", type=options.count, metavar="N", help="(1)")


def _add_client_commands(commands: Any) -> None:
    ps = _command(commands, "ps", "admin:ps", "what runs, and where its experts are")
    ps.add_argument("-w", "--watch", action="store_true", help="again each second, until Ctrl-C")
    options.add_client(ps)
    listing = _command(commands, "models", "admin:models", "what models there are", ["list", "ls"])
    listing.add_argument("--names", action="store_true", help="their names only, one a line")
    options.add_client(listing)
    for name, also, run, text in (
        ("show", (), "admin:show", "all about one model"),
        ("load", (), "admin:load_or_unload", "load a model"),
        ("unload", ("stop",), "admin:load_or_unload", "unload a model"),
    ):
        command = _command(commands, name, run, text, also)
        command.add_argument("model", metavar="MODEL")
        if name != "show":
            options.add_node(command)
        options.add_client(command)
    remove = _command(commands, "rm", "admin:rm", "remove models that were pulled or made here")
    remove.add_argument("models", metavar="MODEL", nargs="+")
    options.add_node(remove)
    options.add_client(remove)
    copy = _command(commands, "cp", "admin:cp", "give a model another name")
    copy.add_argument("source", metavar="MODEL")
    copy.add_argument("destination", metavar="NAME")
    options.add_client(copy)
    logs = _command(commands, "logs", "admin:logs", "what the workers say")
    logs.add_argument("model", metavar="MODEL", nargs="?", help="of this one only")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C")
    options.add_node(logs)
    options.add_url(logs)
    _add_run(commands)
    setting = _command(commands, "set", "admin:set_split", "move the experts of a model")
    setting.add_argument("model", metavar="MODEL")
    setting.add_argument(
        "--moe-cpu-layers",
        type=options.split,
        required=True,
        metavar="N|auto|none|partial|full|0-11,20",
    )
    options.add_node(setting)
    options.add_client(setting)


def _add_run(commands: Any) -> None:
    chat = _command(commands, "run", "local:run", "talk with a model")
    chat.add_argument("model", metavar="MODEL")
    chat.add_argument(
        "prompt", metavar="PROMPT", nargs="*", help="one question; without it, a chat"
    )
    chat.add_argument("--moe-cpu-layers", type=options.split, metavar="N|auto|none|partial|full")
    chat.add_argument("--system", metavar="TEXT", help="what the model is told before it all")
    options.add_url(chat)


def _add_plan(commands: Any) -> None:
    text = "how a model would be placed, without loading it"
    parser = _command(commands, "plan", "local:plan", text)
    parser.add_argument("model", metavar="MODEL", help="a name of the catalogue, or a GGUF file")
    parser.add_argument(
        "--vram",
        type=options.vram,
        metavar="SIZE|NAME=SIZE,...",
        help="memory of the devices; without it, what a running proxy sees",
    )
    count = options.count
    parser.add_argument("--ctx", type=count, metavar="N", help="tokens for one conversation")
    parser.add_argument("--parallel", type=count, metavar="N", help="conversations at once")
    parser.add_argument("--kv", metavar="TYPE", help="type of the KV cache, such as q8_0")
    parser.add_argument("--ubatch", type=count, metavar="N", help="tokens of a prompt batch")
    parser.add_argument("--tune", choices=("balanced", "prompt", "generation"))
    parser.add_argument("--moe-cpu-layers", type=options.split, metavar="N|auto|none|full")
    options.add_policies(parser)
    options.add_client(parser)


def _add_bench(commands: Any) -> None:
    parser = _command(commands, "bench", "local:bench", "measure a model at several splits")
    parser.add_argument("model", metavar="MODEL", help="a name of the catalogue, or a GGUF file")
    count = options.count
    parser.add_argument("--ctx", type=count, metavar="N", help="tokens for one conversation")
    parser.add_argument(
        "--splits", type=options.splits, metavar="N,N,...|auto", help="where to measure"
    )
    parser.add_argument("--prompt", type=count, default=512, metavar="N", help="tokens to read")
    parser.add_argument("--tokens", type=count, default=64, metavar="N", help="tokens to generate")
    parser.add_argument("--rounds", type=count, default=3, metavar="N", help="the median counts")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the curve, as FILE.png")
    options.add_policies(parser)
    options.add_client(parser)


def _add_pull_and_create(commands: Any) -> None:
    pull = _command(commands, "pull", "local:pull_or_create", "download a model")
    pull.add_argument(
        "model", metavar="REF", help="hf.co/ORG/REPO[:QUANT], or a name of Ollama's registry"
    )
    pull.add_argument("--insecure", action="store_true", help="plain HTTP to the registry")
    options.add_node(pull)
    options.add_client(pull)
    create = _command(commands, "create", "local:pull_or_create", "make a model from a Modelfile")
    create.add_argument("model", metavar="NAME")
    create.add_argument("-f", "--file", type=Path, default=Path("Modelfile"), metavar="MODELFILE")
    create.add_argument("-q", "--quantize", metavar="TYPE", help="Q4_K_M, Q8_0, ...")
    options.add_node(create)
    options.add_client(create)


def _add_service(commands: Any) -> None:
    text = "have systemd run it, from now on and with each start of the machine"
    install = _command(commands, "install-service", "service:install", text)
    install.add_argument(
        "--socket",
        action="store_true",
        help="have systemd keep the port open, so that a restart loses no connection",
    )
    text = "undo install-service; policies and models stay"
    uninstall = _command(commands, "uninstall-service", "service:uninstall", text)
    for command in (install, uninstall):
        where = command.add_mutually_exclusive_group()
        where.add_argument("--user", action="store_true", help="a service of your own")
        where.add_argument(
            "--root", type=Path, metavar="DIR", help="in a system that is not running, below DIR"
        )
        command.add_argument("--dry-run", action="store_true", help="only say what would be done")
        command.add_argument("--force", action="store_true", help="also where a unit was edited")


def _add_fleet(commands: Any) -> None:
    fleet = _command(commands, "fleet", "main:fleet", "have several machines as one")
    inner = fleet.add_subparsers(metavar="up|status|drain|down", dest="fleet_command")
    up = _command(inner, "up", "fleet:up", "have this machine in a fleet")
    first = "the fleet's first machine"
    up.add_argument("--head", type=options.head, metavar="HOST[:PORT]", help=first)
    up.add_argument("--host", help="address on which clients are answered (127.0.0.1)")
    up.add_argument("--port", type=options.port, help="(11434)")
    up.add_argument("--name", help="of this machine's node (its host name)")
    up.add_argument(
        "--ray-port",
        type=options.port,
        default=6379,
        metavar="PORT",
        help="where a first machine's Ray listens for the others (6379)",
    )
    options.add_policies(up)
    status = _command(inner, "status", "fleet:status", "the nodes, and how each is")
    options.add_json(status)
    drain = _command(
        inner, "drain", "fleet:drain", "have a node end what it is at, and nothing new"
    )
    drain.add_argument("node", metavar="NODE")
    drain.add_argument(
        "--timeout",
        type=options.count,
        metavar="SECONDS",
        help="what still runs then is ended (server.drain)",
    )
    drain.add_argument("--undo", action="store_true", help="have it back")
    down = _command(inner, "down", "fleet:down", "end the fleet")
    down.add_argument("--here", action="store_true", help="have only this machine leave it")
    down.add_argument(
        "--yes", action="store_true", help="with --here, also where that is the first machine"
    )


def fleet(arguments: argparse.Namespace) -> int:
    output.error("moe-proxy fleet: say what: up, status, drain NODE or down")
    return MISUSED


def _add_completion(commands: Any) -> None:
    text = "a script that has a shell complete commands, options and models"
    completion = _command(commands, "completion", "main:completion", text)
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))


def completion(arguments: argparse.Namespace) -> int:
    from proxy.cli.completion import script

    output.say(script(_parser()[0], arguments.shell))
    return OK


def _command(
    commands: Any,
    name: str,
    run: str,
    text: str,
    also: Sequence[str] = (),
) -> argparse.ArgumentParser:
    """`run`: the module here and its function, imported when it is called: each command loads what
    only it needs."""
    parser: argparse.ArgumentParser = commands.add_parser(
        # Half a name of an option would mean another one as soon as there are more.
        name,
        aliases=also,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
