"""The commands that ask a running proxy."""

import json
import sys
import time
from argparse import Namespace
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

from proxy.cli import text
from proxy.cli.client import (
    Client,
    Refused,
    default_identity,
    default_key,
    default_url,
    model_path,
)
from proxy.cli.loading import waiting_for
from proxy.cli.output import FAILED, OK, error, info, print_result
from proxy.split import plain
from proxy.text import harmless, in_words

WATCH_S: Final = 1.0
CLEAR: Final = "\033[H\033[2J"
# A log that nobody writes to is silent for as long as it likes.
LOG_SILENT_S: Final = 7 * 86400.0


def client_of(arguments: Namespace) -> Client:
    url = arguments.url or default_url()
    return Client(url, key=default_key(), identity=default_identity(url))


def ps(arguments: Namespace) -> int:
    if arguments.watch:
        return watch(arguments)
    return _print_backends(arguments, client_of(arguments))


def watch(arguments: Namespace) -> int:
    """`ps`, again and again until Ctrl-C."""
    client = client_of(arguments)
    while True:
        if sys.stdout.isatty():
            sys.stdout.write(CLEAR)
        _print_backends(arguments, client)
        sys.stdout.flush()
        time.sleep(WATCH_S)


def _print_backends(arguments: Namespace, client: Client) -> int:
    state = client.get("/admin/state")
    backends, refused = state["backends"], text.refused(state["policies"]["problems"])
    if refused and arguments.json:
        info(refused)
    told = [text.backends(backends, datetime.now(UTC)), *(["", refused] if refused else [])]
    return print_result(arguments, backends, lambda: "\n".join(told))


def models(arguments: Namespace) -> int:
    client = client_of(arguments)
    found = client.get("/v1/models")["data"]
    if arguments.names:
        return print_result(
            arguments,
            [model["id"] for model in found],
            lambda: "\n".join(model["id"] for model in found),
        )
    loaded = [] if arguments.json else client.get("/admin/state")["backends"]
    return print_result(arguments, found, lambda: text.models(found, loaded))


def show(arguments: Namespace) -> int:
    client = client_of(arguments)
    model = client.get("/v1/models/" + quote(arguments.model, safe="/:"))
    # A variant's backends are under the name of its base.
    name = model["meta"]["base"] or model["id"]
    backends = [b for b in client.get("/admin/state")["backends"] if b["model"] == name]
    shown = {"model": model, "backends": backends}
    return print_result(arguments, shown, lambda: text.model(model, backends))


def load_or_unload(arguments: Namespace) -> int:
    verb = "load" if arguments.command == "load" else "unload"
    client = client_of(arguments)
    with waiting_for(client, arguments.model) if verb == "load" else nullcontext():
        answer = client.post(model_path(arguments.model, verb))

    def said() -> str:
        if verb == "load":
            return f"{answer['id']} {answer['model']} {answer['state']}"
        count = answer["unloaded"]
        return f"unloaded {in_words(count, 'backend')}" if count else "it was not loaded"

    return print_result(arguments, answer, said)


def set_split(arguments: Namespace) -> int:
    wanted = {"moe_cpu_layers": plain(arguments.moe_cpu_layers)}
    answer = client_of(arguments).put(model_path(arguments.model, "split"), wanted)
    return print_result(arguments, answer, lambda: text.splits(answer["backends"]))


def logs(arguments: Namespace) -> int:
    """What the workers say."""
    path = "/logs/stream" if arguments.follow else "/logs"
    if arguments.model:
        path += "/" + quote(arguments.model, safe="/:")
    silent_s = LOG_SILENT_S if arguments.follow else None
    for line in client_of(arguments).lines("GET", path, silent_s=silent_s):
        said = line.decode(errors="replace")
        sys.stdout.write(harmless(said) if sys.stdout.isatty() else said)
        sys.stdout.flush()
    return OK


def rm(arguments: Namespace) -> int:
    client = client_of(arguments)
    gone, failed = [], False
    for name in arguments.models:
        try:
            client.open("DELETE", "/api/delete", json.dumps({"model": name}).encode()).close()
            gone.append(name)
        except Refused as refusal:  # the others go all the same
            error(refusal)
            failed = True
    if gone or arguments.json:
        print_result(arguments, gone, lambda: f"removed {', '.join(gone)}")
    return FAILED if failed else OK


def cp(arguments: Namespace) -> int:
    names = {"source": arguments.source, "destination": arguments.destination}
    client_of(arguments).open("POST", "/api/copy", json.dumps(names).encode()).close()
    return print_result(
        arguments,
        names,
        lambda: f"{arguments.destination} is another name for {arguments.source} now",
    )
