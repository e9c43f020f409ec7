"""The log as people read it: what happened in a sentence, with the model's name before it. Pure.

Machines get the events and their fields as they are (`--log-format json`).
"""

import string
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final

from proxy.text import gib, in_words

Line = MutableMapping[str, Any]

# Why something moved or went, as the code calls it -> as its owner would say it.
REASONS: Final[Mapping[str, str]] = {
    "request": "a request asked for it",
    "operator": "you set it",
    "policy": "you saved the policy",
    "pressure": "a device ran short of memory",
    "room": "another model needs the room",
    "rpc": "another model needs its RPC server, which has one client at a time",
    "free": "there is room for them",
    "load": "it was just loaded",
    "settle": "what a request asked for is over",
    "use": "the model in use gets the room",
    "keep_alive": "nobody asked for it any more",
    "unload": "you unloaded it",
    "replaced": "it is loaded anew with other options",
    "drain": "the proxy ends",
    "abort": "the proxy ends",
}
# What is of use to who looks for a fault, and noise to all others.
DETAILS: Final = frozenset({"backend_stopping", "balance", "child_gone", "device_did_not_show"})
# Of any line: what says no more than its sentence does.
ALWAYS_HIDDEN: Final = frozenset({"generation", "at", "request_id"})
# Unless it is what people look for in it: clients are told the id of their request.
SHOWN: Final = {"request": frozenset({"request_id"})}
# The status, in the log and the metrics, of a request whose client did not wait: nginx's number.
CLIENT_LEFT: Final = 499


class _Words(string.Formatter):
    """Formats of its own: {bytes:gib}, {seconds:s}, {seconds:ms}, {count:n layer}, {why:why},
    {names:list}. Keeps in `used` what it took from the line."""

    def __init__(self) -> None:
        self.used: set[str] = set()

    def get_value(self, key: int | str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        self.used.add(str(key))
        return kwargs[str(key)]

    def format_field(self, value: Any, format_spec: str) -> str:
        kind, _, noun = format_spec.partition(" ")
        match kind:
            case "gib":
                return gib(value)
            case "s":
                return f"{value:.1f} s" if value >= 0.1 else f"{value * 1000:.0f} ms"
            case "ms":
                return f"{value * 1000:.1f} ms"
            case "n":
                return in_words(value, noun)
            case "why":
                return REASONS.get(value, str(value))
            case "list":
                return ", ".join(map(str, value)) or "nothing"
        return str(value)


def _policies_changed(line: Mapping[str, Any]) -> str:
    found = [*line["keys"]]
    found += [f"{key} of {name}" for name, keys in line["models"].items() for key in keys]
    found += [f"{key} of all models" for key in line["defaults"]]
    text = f"policies read again; changed: {', '.join(found) or 'nothing'}"
    others = line.get("nodes")
    return f"{text} here, and what is for {', '.join(others)} alone" if others else text


def _policies_refused(line: Mapping[str, Any]) -> str:
    told = []
    for problem in line["problems"]:
        place = problem["file"] + (f":{problem['line']}" if problem["line"] else "")
        told.append(": ".join(part for part in (place, problem["key"], problem["message"]) if part))
    return "\n    ".join(("the policies are not used, and the old ones stay:", *told))


def _gone(line: Mapping[str, Any]) -> str:
    if line["was"] == "stopping":
        return f"{line['model']}: unloaded"
    did = "could not be loaded" if line["was"] == "starting" else "its worker is gone"
    return f"{line['model']}: {did}: {line['why']}"


def _room_missing(line: Mapping[str, Any]) -> str:
    short = ", ".join(f"{gib(size)} on {device}" for device, size in line["missing"].items())
    then = "it waits" if line["unloads"] is None else f"{line['unloads']} is unloaded for it"
    return f"{line['model']}: has no room yet, {short} are missing; {then}"


def _draining(line: Mapping[str, Any]) -> str:
    if not line["in_flight"]:
        return "ending"
    answers = in_words(line["in_flight"], "answer")
    return f"waiting up to {line['drain_s']:g} s for {answers}; Ctrl-C again ends it now"


def _serving(line: Mapping[str, Any]) -> str:
    files = f", by {', '.join(line['files'])}" if line["files"] else ", without a policy file"
    return f"serving {in_words(line['models'], 'model')} at {line['url']}{files}"


def _request(line: Mapping[str, Any]) -> str:
    """What it was, how it ended, and for whom with what."""
    words = _Words()
    ended = "was left by its client after {duration_s:s}"
    if line["status"] != CLIENT_LEFT:
        ended = "{status} in {duration_s:s}"
    said = words.vformat("{method} {path} " + ended, (), line)
    about = [str(line["model"])] if line.get("model") else []
    # Only of a request that a backend answered both are known.
    if line.get("moe_cpu_layers") and line.get("backend"):
        about.append(f"{in_words(line['moe_cpu_layers'], 'layer')} on the CPU")
    if line.get("prompt_tokens") is not None:
        kept = f" ({line['cached_tokens']} from the cache)" if line.get("cached_tokens") else ""
        about.append(f"{in_words(line['prompt_tokens'], 'token')} read{kept}")
    if line.get("tokens") is not None:
        about.append(f"{line['tokens']} written")
    return f"{said}: {', '.join(about)}" if about else said


# Event -> its sentence, or what makes it, and the fields that it makes needless.
SENTENCES: Final[Mapping[str, tuple[str | Callable[[Mapping[str, Any]], str], frozenset[str]]]] = {
    event: (sentence, frozenset(needless.split()))
    for event, sentence, needless in (
        ("serving", _serving, "url files models"),
        ("front_serving", "serving the fleet at {url}", "url node"),
        ("node_joined", "{node}: is a machine of the fleet, at {url}", "url"),
        ("node_left", "{node}: is no machine of the fleet any more", ""),
        ("node_answers", "{node}: answers", "url"),
        ("node_does_not_answer", "{node}: gets no requests: {why}", "url"),
        ("asked_elsewhere", "{node}: did not answer, so another machine is asked: {why}", ""),
        ("stopping", "told to end ({signal})", ""),
        ("draining", _draining, "drain_s in_flight pool hint"),
        ("killing", "told to end again ({signal}): now", ""),
        ("files_read_again", "files read again: {models:n model}", ""),
        ("policies_changed", _policies_changed, "keys models defaults nodes"),
        ("policies_refused", _policies_refused, "problems"),
        ("policies_wait_for_restart", "changed, but only with a restart: {keys:list}", ""),
        ("policy_warning", "{warning}", ""),
        ("backend_starting", "{model}: loading", "backend"),
        ("backend_ready", "{model}: loaded, as {backend}", "was why"),
        ("backend_draining", "{model}: leaves once its answers are done: {why:why}", "backend was"),
        ("backend_stopping", "{model}: unloading", "backend was why"),
        ("backend_gone", _gone, "model backend was why"),
        ("backend_reloading", "{backend}: loading anew, as these changed: {keys:list}", ""),
        ("backend_hangs", "{backend}: {why}; its process is ended", "pid"),
        ("backend_given_up", "{backend}: takes no more requests, and is ended: {why}", ""),
        (
            "moved",
            "{model}: experts of {layers:n layer} moved in {staged_s:s}, {from} -> {to} layers on"
            " the CPU; pause {gate_s:ms} ({why:why})",
            "backend bytes moe_cpu_layers for",
        ),
        ("move_failed", "{backend}: experts did not move: {error} ({why:why})", ""),
        ("no_live_moves", "{model}: nothing of it moves: {why}", "backend"),
        (
            "not_reloaded",
            "{model}: stays as it was loaded, until it is unloaded: {error}",
            "backend",
        ),
        ("room_missing", _room_missing, "model backend missing unloads"),
        (
            "cache_shrinks",
            "{model}: loading anew with an expert cache of {to_bytes:gib}, not {cache_bytes:gib}:"
            " a device stays short of memory",
            "backend",
        ),
        ("no_expert_cache", "{model}: loaded without an expert cache: {why}", ""),
        ("host_memory_short", "{model}: {message}", "backend cpu_bytes available_bytes"),
        ("host_pressure", "{message}", "pressure available_bytes"),
        ("host_pressure_over", "host memory is enough again: {available_bytes:gib}", ""),
        ("request_retried", "{model}: asked again, as its worker went away: {why}", ""),
        (
            "request",
            _request,
            "method path status duration_s model moe_cpu_layers prompt_tokens cached_tokens tokens"
            " first_byte_s bytes_sent backend",
        ),
        ("request_warning", "{path}: {warning}", ""),
        ("no_traces", "no traces are sent: {why}", ""),
        ("traces_not_sent", "traces are not sent: {why}", "spans"),
        ("traces_sent_again", "traces are sent again", ""),
        ("drain_timeout", "answers are cut off, as {after_s:s} are over", ""),
        ("model_not_usable", "not usable: {where}: {why}", ""),
        ("ctx_clamped", "{model}: context {asked} is more than the {trained} of its training", ""),
        ("api_keys_read", "{keys:n API key} read from {file}", ""),
    )
}


def in_sentences(_: object, method: str, line: Line) -> Line:
    """A processor for structlog. A line that is not what its sentence expects stays as it is."""
    found = SENTENCES.get(line["event"])
    if found is None:
        return line
    sentence, needless = found
    words = _Words()
    try:
        said = words.vformat(sentence, (), line) if isinstance(sentence, str) else sentence(line)
    except (KeyError, TypeError, ValueError, AttributeError):
        return line
    dropped = words.used | needless | (ALWAYS_HIDDEN - SHOWN.get(line["event"], frozenset()))
    kept = {key: value for key, value in line.items() if key not in dropped and value is not None}
    return kept | {"event": said}
