"""The commands that ask a running proxy."""

from argparse import Namespace
from datetime import UTC, datetime
from urllib.parse import quote

from proxy.cli import text
from proxy.cli.client import Client, default_key, default_url, model_path
from proxy.cli.output import print_result
from proxy.split import plain
from proxy.text import in_words


def client_of(arguments: Namespace) -> Client:
    return Client(arguments.url or default_url(), key=default_key())


def ps(arguments: Namespace) -> int:
    backends = client_of(arguments).get("/admin/state")["backends"]
    return print_result(arguments, backends, lambda: text.backends(backends, datetime.now(UTC)))


def models(arguments: Namespace) -> int:
    found = client_of(arguments).get("/v1/models")["data"]
    return print_result(arguments, found, lambda: text.models(found))


def show(arguments: Namespace) -> int:
    client = client_of(arguments)
    model = client.get("/v1/models/" + quote(arguments.model, safe="/:"))
    # A variant's backends are under the name of its base.
    name = model["meta"]["base"] or model["id"]
    backends = [b for b in client.get("/admin/state")["backends"] if b["model"] == name]
    shown = {"model": model, "backends": backends}
    return print_result(arguments, shown, lambda: text.model(model, backends))


def load_or_unload(arguments: Namespace) -> int:
    verb = arguments.command
    answer = client_of(arguments).post(model_path(arguments.model, verb))

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
