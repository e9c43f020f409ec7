"""What a proxy tells, as people read it. Pure."""

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from proxy.engine.types import CPU
from proxy.policy.load import Loaded
from proxy.policy.overrides import Override
from proxy.policy.problems import Problem
from proxy.text import gib, harmless, in_words, table

Json = dict[str, Any]

# A reason may be a whole traceback of a server's; `--json` and the log have all of it.
LONGEST_REASON = 200
MODELS_GREETED = 8
# Of a model, what its policy asks for, and what it gets or what is now may differ.
ASKED = {
    **{"ctx": "ctx asked for", "n_ctx": "ctx", "n_ctx_train": "ctx of its training"},
    **{name: f"{name} asked for" for name in ("parallel", "moe_cpu_layers")},
}
UNUSABLE = 10  # files that are no models, told one by one
# Beyond this nobody counts: so far away is what stays for ever.
FOREVER_S = 100 * 365 * 86400.0
# Each with its seconds, and from how many on the next one is used.
UNITS = (("second", 1, 60), ("minute", 60, 60), ("hour", 3600, 24), ("day", 86400, math.inf))


def greeting(
    version: str, url: str, models: Sequence[str], example: str | None, *, elsewhere: bool
) -> str:
    """What `serve` says once it serves: where, what, and what to do next. `example`: a command to
    try. `elsewhere`: not where the other commands look by themselves."""
    where = f" --url {url}" if elsewhere else ""
    text = [
        f"moe-proxy {version} serves at {url}".replace("  ", " "),
        f"  OpenAI's clients: OPENAI_BASE_URL={url}/v1, Anthropic's: ANTHROPIC_BASE_URL={url}, "
        f"Ollama's: OLLAMA_HOST={url}",
    ]
    if models:
        listed = ", ".join(models[:MODELS_GREETED])
        more = f" and {len(models) - MODELS_GREETED} more" if len(models) > MODELS_GREETED else ""
        text.append(f"  {in_words(len(models), 'model')}: {listed}{more}")
        text += [f"  try: {example}"] if example else []
    else:
        text.append(f"  {no_models(where)}")
    text.append(f"  see: moe-proxy ps{where}; Ctrl-C lets running answers finish and ends it")
    return "\n".join(text)


def no_models(where: str = "") -> str:
    """What to do without models."""
    folders = "put GGUF files into a folder of [catalog] dirs"
    return f"no models yet: {folders}, or get one with: moe-proxy pull REF{where}"


def backends(found: Sequence[Json], now: datetime) -> str:
    """What runs, at the time `now`, and below why something does not."""
    if not found:
        return "nothing is loaded; moe-proxy models shows what there is"
    head = [
        *("ID", "MODEL", "STATE", "CPU LAYERS", "EXPERTS ON DEVICES"),
        *("CTX", "BUSY", "TOK/S", "UNTIL"),
    ]
    rows = [
        [
            *(backend["id"], backend["model"], _state(backend)),
            *(layers(backend), _experts_on_devices(backend), backend["ctx"]),
            *(backend["in_flight"], f"{backend['tokens_per_second']:.1f}", _until(backend, now)),
        ]
        for backend in found
    ]
    said = [f"{backend['id']}: {text}" for backend in found for text in _remarks(backend, now)]
    return "\n".join([table(head, rows), *([""] if said else []), *said])


def models(found: Sequence[Json], loaded: Sequence[Json]) -> str:
    """All there is. Of those that are `loaded`, the split is what it is now; of others, what is
    asked for."""
    if not found:
        return no_models()
    now = {backend["model"]: layers(backend) for backend in loaded if backend["state"] == "ready"}
    rows = []
    for model in found:
        meta = model["meta"]
        asked = "-" if meta["moe_cpu_layers"] is None else meta["moe_cpu_layers"]
        split = now.get(meta["base"] or model["id"], asked)
        size = gib(meta["size_bytes"])
        rows.append(
            [model["id"], size, model["context_length"], split, ", ".join(model["aliases"])]
        )
    return table(["MODEL", "SIZE", "CTX", "CPU LAYERS", "ALIASES"], rows)


def model(found: Json, its_backends: Sequence[Json]) -> str:
    """One model, and what each device holds of it."""
    meta = found["meta"] | {"size": gib(found["meta"].get("size_bytes"))}
    meta.pop("size_bytes", None)
    rows = [[ASKED.get(name, name), value] for name, value in meta.items() if value is not None]
    text = [table(["MODEL", found["id"]], [*rows, ["aliases", ", ".join(found["aliases"]) or "-"]])]
    for backend in its_backends:
        text.append(
            f"\n{backend['id']} {backend['state']}, CPU layers {layers(backend)}, "
            f"{in_words(backend['parallel'], 'conversation')} of {backend['ctx']} tokens"
        )
        if backend["why_no_moves"]:
            text.append(f"its experts cannot move: {backend['why_no_moves']}")
        there = _held(backend)
        cache = ("cache",) if any(kinds.get("cache") for kinds in there.values()) else ()
        shown = ("weights", "kv", "compute", "experts", *cache)
        held = [
            [device, *(gib(kinds.get(kind)) for kind in shown)] for device, kinds in there.items()
        ]
        if held:
            text.append(table(["DEVICE", *map(str.upper, shown)], held))
    return "\n".join(text)


def _held(backend: Json) -> dict[str, dict[str, int]]:
    """What each device holds. All experts are in the file that the CPU has mapped: of these, only
    those that are computed there are told, and as experts."""
    held: dict[str, dict[str, int]] = {name: dict(row) for name, row in backend["bytes"].items()}
    if backend["layers"] and (cpu := held.get(CPU)):
        every = sum(layer["experts_bytes"] for layer in backend["layers"])
        there = [layer for layer in backend["layers"] if layer["experts"] == CPU]
        cpu["experts"] = sum(layer["experts_bytes"] for layer in there)
        cpu["weights"] = max(cpu["weights"] - every, 0)
    return held


def splits(found: Sequence[Json]) -> str:
    """Where the experts are now that a split was set."""
    text = []
    for backend in found:
        text.append(f"{backend['id']} {backend['model']}: CPU layers {layers(backend)}")
        if not backend["live_moves"]:
            text.append(f"  nothing moves: {backend['why_no_moves']}")
        elif _short_of(backend):
            text.append(
                f"  {backend['asked']} was asked for, and the devices have no room for that beside "
                "what is to stay free (devices.reserve, limit); it is kept until they have"
            )
    return "\n".join(text)


def _short_of(backend: Json) -> bool:
    """Whether more is on the CPU than a number that was asked for."""
    asked, current = backend["asked"], backend["moe_cpu_layers"]
    return isinstance(asked, int) and current is not None and 0 <= asked < current


def policies(
    loaded: Loaded, warnings: Sequence[Problem], models: str, unusable: Mapping[str, str]
) -> str:
    """Whether the policies are good, what is wrong with them if not, and what may be. `models` says
    how many there are, `unusable` which files are none, and why."""
    doubts = [f"warning: {warning}" for warning in warnings]
    if loaded.policies is None:
        return "\n".join([*map(str, loaded.problems), *doubts])
    told = "\n".join(doubts)  # a file that a policy names is told of with its line
    others = [f"{where}: {why}" for where, why in unusable.items() if where not in told]
    doubts += [f"warning: no model: {each}" for each in others[:UNUSABLE]]
    if more := others[UNUSABLE:]:
        doubts.append(f"warning: and {in_words(len(more), 'other file')} that are no models")
    server = loaded.policies.server
    files = in_words(len(loaded.files), "file") if loaded.files else "built-in defaults"
    good = f"good: {files}, {models}, listens on {server.host}:{server.port}"
    return "\n".join([good, *doubts])


def node_keys(node: str, own: Sequence[Override]) -> str:
    """What a node's own table sets."""
    if not own:
        return f"node {node}: nothing of its own"
    width = max(len(each.key) for each in own)
    lines = [f"  {each.key:{width}} = {each.value}  # {each.place}" for each in own]
    return "\n".join([f"node {node}, of its own:", *lines])


def refused(problems: Sequence[Json]) -> str:
    """That the files of policies are not in force, and why; empty where they are. In a fleet each
    says its node."""
    if not problems:
        return ""
    head = "the policies on disk have mistakes, so those before them stay in force:"
    return "\n".join([head, *(f"  {_problem(**problem)}" for problem in problems)])


def _problem(*, node: str = "", **problem: Any) -> str:
    return (f"{node}: " if node else "") + str(Problem(**problem))


def layers(backend: Json) -> str:
    """Of how many layers the experts are on the CPU, of how many, and what was asked for; "-" where
    the model has none."""
    if backend.get("block_count") and not backend["layers"]:
        return "-"
    on_cpu = [layer["index"] for layer in backend["layers"] if layer["experts"] == "CPU"]
    below = [x["index"] for x in backend["layers"] if x["index"] < (backend["moe_cpu_layers"] or 0)]
    # The number says it all only where the layers on the CPU are the first ones.
    count = backend["moe_cpu_layers"] if on_cpu == below else len(on_cpu)
    current = "?" if backend["moe_cpu_layers"] is None else str(count)
    of = f"/{backend['block_count']}" if backend.get("block_count") else ""
    asked = backend["asked"]
    return f"{current}{of}" + (f" ({asked})" if asked is not None and str(asked) != current else "")


def from_now(moment: datetime, now: datetime) -> str:
    """When `moment` is, as Ollama's `ps` says it: "4 minutes from now". Both with a time zone."""
    seconds = round((moment - now).total_seconds())
    if seconds <= 0:
        return "now"
    if seconds > FOREVER_S:
        return "forever"
    counts = ((round(seconds / size), unit, most) for unit, size, most in UNITS)
    return next(f"{in_words(count, unit)} from now" for count, unit, most in counts if count < most)


def _until(backend: Json, now: datetime) -> str:
    if backend["in_flight"]:
        return "in use"
    if backend["state"] == "gone":
        return "-"
    if backend["expires_at"] is None:
        return "forever" if backend["state"] == "ready" else "-"
    return from_now(_moment(backend["expires_at"]), now)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _state(backend: Json) -> str:
    """One that is gone is listed because it failed."""
    return "failed" if backend["state"] == "gone" else str(backend["state"])


def _remarks(backend: Json, now: datetime) -> Iterator[str]:
    """What people should know of it: warnings, why it failed, and when it is tried again."""
    yield from map(_short, backend["warnings"])
    if backend["last_error"]:
        yield _short(backend["last_error"])
    if backend["state"] != "gone":
        return
    count, again = backend["failures"], backend["retry_at"]
    when = f"not before {from_now(_moment(again), now)}" if again else "with the next request"
    times = f"failed {count} times in a row, " if count > 1 else ""
    name = shlex.quote(backend["model"])
    yield f"{times}tried again {when}; at once with: moe-proxy load {name}"


def _experts_on_devices(backend: Json) -> str:
    on_devices = [layer for layer in backend["layers"] if layer["experts"] != "CPU"]
    if not on_devices:
        return "-"
    size = sum(layer["experts_bytes"] for layer in on_devices)
    return f"{gib(size)} on {', '.join(sorted({layer['experts'] for layer in on_devices}))}"


def _short(reason: str) -> str:
    line = harmless(" ".join(reason.split()))
    return line if len(line) <= LONGEST_REASON else line[: LONGEST_REASON - 3] + "..."
