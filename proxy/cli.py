"""The command `moe-proxy`: parses, calls, prints. What it prints goes to people, or with `--json`
to programs.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from proxy.client import Client, ClientError, default_key, default_url, model_path
from proxy.errors import BadRequest, NotFound, ProxyError
from proxy.observe.log import LEVELS
from proxy.split import ALLOWED, AUTO, Split, parse_split, plain
from proxy.tables import gib, in_words, table
from proxy.version import own_version

OK, FAILED, MISUSED = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status: 0 done, 1 refused or not found, 2 used or set up
    wrongly.
    """
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except ClientError as error:
        print(f"moe-proxy: {error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        # Whoever read our output has had enough of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="moe-proxy",
        description="Serves mixture-of-experts models and moves their experts while they answer.",
    )
    parser.add_argument(
        "--version", action="version", version=f"moe-proxy {own_version() or 'unknown'}"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    serve = _command(commands, "serve", _serve, "serve models")
    serve.add_argument("--host", help="address to listen on")
    serve.add_argument("--port", type=_port, help="port to listen on")
    _add_policies(serve)
    serve.add_argument("--log-format", choices=("console", "json"), default="console")
    serve.add_argument("--log-level", choices=LEVELS, default="info")

    demo = _command(commands, "demo", _demo, "show the main job on a small generated model")
    demo.add_argument("--keep", action="store_true", help="leave it running at the end")

    check = _command(commands, "check", _check, "check the policies")
    _add_policies(check)
    _add_json(check)

    for name, run, text in (
        ("ps", _ps, "what runs, and where its experts are"),
        ("models", _models, "what models there are"),
    ):
        _add_client(_command(commands, name, run, text))
    for name, run, text in (
        ("show", _show, "all about one model"),
        ("load", _load, "load a model"),
        ("unload", _unload, "unload a model"),
    ):
        command = _command(commands, name, run, text)
        command.add_argument("model", metavar="MODEL")
        _add_client(command)
    setting = _command(commands, "set", _set, "move the experts of a model")
    setting.add_argument("model", metavar="MODEL")
    setting.add_argument(
        "--moe-cpu-layers", type=_split, required=True, metavar="N|auto|none|partial|full|0-11,20"
    )
    _add_client(setting)
    _add_plan(commands)
    _add_bench(commands)
    _add_pull_and_create(commands)
    return parser


def _add_pull_and_create(commands: Any) -> None:
    pull = _command(commands, "pull", _pull, "download a model")
    pull.add_argument(
        "model", metavar="REF", help="hf.co/ORG/REPO[:QUANT], or a name of Ollama's registry"
    )
    pull.add_argument("--insecure", action="store_true", help="plain HTTP to the registry")
    _add_client(pull)
    create = _command(commands, "create", _create, "make a model from a Modelfile")
    create.add_argument("model", metavar="NAME")
    create.add_argument("-f", "--file", type=Path, default=Path("Modelfile"), metavar="MODELFILE")
    create.add_argument("-q", "--quantize", metavar="TYPE", help="Q4_K_M, Q8_0, ...")
    _add_client(create)


def _add_plan(commands: Any) -> None:
    parser = _command(commands, "plan", _plan, "how a model would be placed, without loading it")
    parser.add_argument("model", metavar="MODEL", help="a name of the catalogue, or a GGUF file")
    parser.add_argument(
        "--vram",
        type=_vram,
        metavar="SIZE|NAME=SIZE,...",
        help="memory of the devices; without it, what a running proxy sees",
    )
    parser.add_argument("--ctx", type=_count, metavar="N", help="tokens for one conversation")
    parser.add_argument("--parallel", type=_count, metavar="N", help="conversations at once")
    parser.add_argument("--kv", metavar="TYPE", help="type of the KV cache, such as q8_0")
    parser.add_argument("--ubatch", type=_count, metavar="N", help="tokens of a prompt batch")
    parser.add_argument("--tune", choices=("balanced", "prompt", "generation"), default="balanced")
    parser.add_argument("--moe-cpu-layers", type=_split, default=AUTO, metavar="N|auto|none|full")
    _add_policies(parser)
    _add_client(parser)


def _add_bench(commands: Any) -> None:
    parser = _command(commands, "bench", _bench, "measure a model at several splits")
    parser.add_argument("model", metavar="MODEL", help="a name of the catalogue, or a GGUF file")
    parser.add_argument("--ctx", type=_count, metavar="N", help="tokens for one conversation")
    parser.add_argument("--splits", type=_splits, metavar="N,N,...|auto", help="where to measure")
    parser.add_argument("--prompt", type=_count, default=512, metavar="N", help="tokens to read")
    parser.add_argument("--tokens", type=_count, default=64, metavar="N", help="tokens to generate")
    parser.add_argument("--rounds", type=_count, default=3, metavar="N", help="the median counts")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the curve, as FILE.png")
    _add_policies(parser)
    _add_client(parser)


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    return parser


def _add_policies(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--policies", type=Path, metavar="PATH", help="a file, or a folder of *.toml"
    )


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_client(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--url", help="where the proxy is ($MOE_PROXY_URL, or where the policies say)"
    )
    _add_json(parser)


def _port(text: str) -> int:
    if text.isdecimal() and int(text) <= 65535:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port; use 0 to 65535")


def _split(text: str) -> Split:
    try:
        return parse_split(text)
    except BadRequest:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; use {ALLOWED}") from None


def _count(text: str) -> int:
    if text.isdecimal() and 0 < int(text) < 2**31:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a count")


def _splits(text: str) -> tuple[int, ...] | None:
    if text == AUTO:
        return None
    numbers = text.split(",")
    if all(number.isdecimal() and len(number) < 10 for number in numbers):
        return tuple(map(int, numbers))
    raise argparse.ArgumentTypeError(f"{text!r} is not allowed; use auto, or numbers: 0,6,12")


def _vram(text: str) -> dict[str, int]:
    from proxy.plan import parse_vram

    try:
        return parse_vram(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _client(arguments: argparse.Namespace) -> Client:
    return Client(arguments.url or default_url(), key=default_key())


# Commands import what only they need: `ps` should not take the time to load a server.


def _serve(arguments: argparse.Namespace) -> int:
    from proxy.app import Settings
    from proxy.app import main as serve

    return serve(
        Settings(
            host=arguments.host,
            port=arguments.port,
            policies=arguments.policies,
            log_format=arguments.log_format,
            log_level=arguments.log_level,
        )
    )


def _demo(arguments: argparse.Namespace) -> int:
    from proxy.demo.run import main as demo

    return int(demo(keep=arguments.keep))


def _check(arguments: argparse.Namespace) -> int:
    from proxy.live import problem_to_json
    from proxy.policy.load import load

    loaded = load(arguments.policies, os.environ)
    if arguments.json:
        _print_json(
            {
                "files": [str(file) for file in loaded.files],
                "problems": [problem_to_json(problem) for problem in loaded.problems],
            }
        )
    elif loaded.policies is None:
        for problem in loaded.problems:
            print(problem)
    else:
        models = len(loaded.policies.models)
        server = loaded.policies.server
        files = in_words(len(loaded.files), "file") if loaded.files else "built-in defaults"
        print(f"good: {files}, {in_words(models, 'model')}, listens on {server.host}:{server.port}")
    return OK if loaded.policies else FAILED


def _ps(arguments: argparse.Namespace) -> int:
    state = _client(arguments).get("/admin/state")
    if arguments.json:
        _print_json(state["backends"])
        return OK
    rows = [
        [
            backend["id"],
            backend["model"],
            backend["state"],
            _layers(backend),
            _experts_on_devices(backend),
            backend["ctx"],
            backend["in_flight"],
            f"{backend['tokens_per_second']:.1f}",
            _until(backend),
        ]
        for backend in state["backends"]
    ]
    head = [
        "ID",
        "MODEL",
        "STATE",
        "CPU LAYERS",
        "EXPERTS ON DEVICES",
        "CTX",
        "BUSY",
        "TOK/S",
        "UNTIL",
    ]
    print(table(head, rows) if rows else "nothing is loaded; moe-proxy models shows what there is")
    for backend in state["backends"]:
        if backend["last_error"]:
            print(f"\n{backend['id']}: {backend['last_error']}")
    return OK


def _models(arguments: argparse.Namespace) -> int:
    models = _client(arguments).get("/v1/models")["data"]
    if arguments.json:
        _print_json(models)
        return OK
    rows = [
        [
            model["id"],
            gib(model["meta"]["size_bytes"]),
            model["meta"]["ctx"],
            model["meta"]["moe_cpu_layers"],
            ", ".join(model["aliases"]),
        ]
        for model in models
    ]
    head = ["MODEL", "SIZE", "CTX", "CPU LAYERS", "ALIASES"]
    print(
        table(head, rows) if rows else "no models; put GGUF files into a folder of [catalog] dirs"
    )
    return OK


def _show(arguments: argparse.Namespace) -> int:
    client = _client(arguments)
    model = client.get("/v1/models/" + arguments.model)
    state = client.get("/admin/state")
    backends = [backend for backend in state["backends"] if backend["model"] == model["id"]]
    if arguments.json:
        _print_json({"model": model, "backends": backends})
        return OK
    meta = model["meta"] | {"size": gib(model["meta"].get("size_bytes"))}
    meta.pop("size_bytes", None)
    rows = [[name, value] for name, value in meta.items() if value is not None]
    print(table(["MODEL", model["id"]], [*rows, ["aliases", ", ".join(model["aliases"]) or "-"]]))
    for backend in backends:
        print(f"\n{backend['id']} {backend['state']}, CPU layers {_layers(backend)}")
        held = [
            [device, *(gib(kinds.get(kind)) for kind in ("weights", "kv", "compute", "experts"))]
            for device, kinds in backend["bytes"].items()
        ]
        if held:
            print(table(["DEVICE", "WEIGHTS", "KV", "COMPUTE", "EXPERTS"], held))
    return OK


def _load(arguments: argparse.Namespace) -> int:
    backend = _client(arguments).post(model_path(arguments.model, "load"))
    if arguments.json:
        _print_json(backend)
    else:
        print(f"{backend['id']} {backend['model']} {backend['state']}")
    return OK


def _unload(arguments: argparse.Namespace) -> int:
    answer = _client(arguments).post(model_path(arguments.model, "unload"))
    if arguments.json:
        _print_json(answer)
    else:
        print(f"unloaded {in_words(answer['unloaded'], 'backend')}")
    return OK


def _pull(arguments: argparse.Namespace) -> int:
    from proxy.hub.command import pull
    from proxy.hub.remote import Remote
    from proxy.hub.screen import Screen

    remote = Remote(arguments.url or default_url(), default_key())
    show = Screen(as_json=arguments.json).show
    pull(arguments.model, remote, show, insecure=arguments.insecure)
    return OK


def _create(arguments: argparse.Namespace) -> int:
    from proxy.hub.command import create
    from proxy.hub.remote import Remote
    from proxy.hub.screen import Screen

    remote = Remote(arguments.url or default_url(), default_key())
    show = Screen(as_json=arguments.json).show
    create(arguments.model, arguments.file, remote, show, quantize=arguments.quantize)
    return OK


def _set(arguments: argparse.Namespace) -> int:
    answer = _client(arguments).put(
        model_path(arguments.model, "split"), {"moe_cpu_layers": plain(arguments.moe_cpu_layers)}
    )
    if arguments.json:
        _print_json(answer)
        return OK
    for backend in answer["backends"]:
        print(f"{backend['id']} {backend['model']}: CPU layers {_layers(backend)}")
        if not backend["live_moves"]:
            print(f"  nothing moves: {backend['why_no_moves']}")
    return OK


def _plan(arguments: argparse.Namespace) -> int:
    from proxy.placement.plan_text import plan_json, plan_text
    from proxy.plan import Question, answer, devices_of_proxy

    vram = arguments.vram or devices_of_proxy(_client(arguments))
    question = Question(
        model=arguments.model,
        vram=vram,
        ctx=arguments.ctx,
        parallel=arguments.parallel,
        kv_type=arguments.kv,
        ubatch=arguments.ubatch,
        tune=arguments.tune,
        split=arguments.moe_cpu_layers,
        policies=arguments.policies,
    )
    try:
        found = answer(question)
    except ProxyError as error:
        print(f"moe-proxy: {error}", file=sys.stderr)
        return FAILED if isinstance(error, NotFound) else MISUSED
    if arguments.json:
        _print_json(plan_json(found.plan, found.model, found.args))
    else:
        print(plan_text(found.plan, found.model, vram, found.args))
    return OK if found.plan.fits else FAILED


def _bench(arguments: argparse.Namespace) -> int:
    from proxy.bench.command import BenchError, bench, in_json, in_text
    from proxy.bench.measure import Question

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
        curve = bench(question, _client(arguments), picture=arguments.plot)
    except BenchError as error:
        print(f"moe-proxy: {error}", file=sys.stderr)
        return FAILED
    if arguments.json:
        _print_json(in_json(curve))
    else:
        print(in_text(curve))
    return OK


def _layers(backend: dict[str, Any]) -> str:
    on_cpu = [layer["index"] for layer in backend["layers"] if layer["experts"] == "CPU"]
    below = [x["index"] for x in backend["layers"] if x["index"] < (backend["moe_cpu_layers"] or 0)]
    # The number says it all only where the layers on the CPU are the first ones.
    count = backend["moe_cpu_layers"] if on_cpu == below else len(on_cpu)
    current = "?" if backend["moe_cpu_layers"] is None else str(count)
    of = f"/{backend['block_count']}" if backend.get("block_count") else ""
    asked = backend["asked"]
    return f"{current}{of}" + (f" ({asked})" if asked is not None and str(asked) != current else "")


def _experts_on_devices(backend: dict[str, Any]) -> str:
    on_devices = [layer for layer in backend["layers"] if layer["experts"] != "CPU"]
    if not on_devices:
        return "-"
    size = sum(layer["experts_bytes"] for layer in on_devices)
    return f"{gib(size)} on {', '.join(sorted({layer['experts'] for layer in on_devices}))}"


def _until(backend: dict[str, Any]) -> str:
    if backend["in_flight"]:
        return "in use"
    return str(backend["expires_at"] or "-").partition(".")[0]


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


if __name__ == "__main__":
    sys.exit(main())
