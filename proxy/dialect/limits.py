"""What of a request is known to be too much for llama-server, as trials with it have shown. Pure.

A grammar of 20,000 brackets or 200,000 rules overflows its stack, as do triggers of that kind: the
worker is gone, and with it all answers of its model. Large schemas take it minutes. What is bounded
here is far from both; what is small and takes for ever nevertheless (a grammar can be) is for those
to notice who watch the worker.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from proxy.dialect.body import Body
from proxy.dialect.workload import inputs_of
from proxy.errors import BadRequest

MOST_GRAMMAR_CHARACTERS: Final = 1 << 18
# How often each may stand in a grammar: brackets and rules take stack, alternatives time.
MOST_IN_GRAMMAR: Final = (("(", 5000), ("::=", 5000), ("|", 10000))
MOST_TRIGGERS: Final = 64
MOST_TRIGGER_CHARACTERS: Final = 1000
# Each is compared with all tokens that a model has, while all of its answers wait.
BREAKERS: Final = "dry_sequence_breakers"
MOST_BREAKERS: Final = 100
MOST_LEVELS: Final = 200
MOST_VALUES: Final = 50000  # of all kinds, in all schemas of a request
MOST_CHOICES: Final = 3000
MOST_OPTIONAL: Final = 1000
# Of one request, all in the worker's own queue: who comes after them waits for each, also when
# whoever asked has left long ago. It is what OpenAI takes.
MOST_INPUTS: Final = 2048
# Of one object: llama-server looks through all that it has for each one more, which for 200,000 of
# them takes it a minute and a half.
MOST_KEYS: Final = 10000
# Where schemas stand, in each protocol: whole values, since nobody else nests anything in them.
SCHEMAS: Final = (
    *("json_schema", "response_format", "tools", "functions"),
    *("text", "output_format", "output_config"),
)
_entries = msgspec.json.Decoder(list[msgspec.Raw])
LIMITED: Final = frozenset((*SCHEMAS, "grammar", "grammar_triggers", BREAKERS))


def check_limits(body: Body) -> None:
    """Raises BadRequest that names what is too much."""
    _check_keys(body)
    for name in body.fields:
        if name in LIMITED and not (name in SCHEMAS and _is_small(bytes(body.fields[name]))):
            _check_value(_value(body, name), name)
    count, name = inputs_of(body)
    _check(count, MOST_INPUTS, name, "has {} inputs")


def _check_value(value: Any, name: str) -> None:
    if name in SCHEMAS:
        check_schema(value, name)
    elif name == "grammar_triggers":
        _check_triggers(value)
    elif name == "grammar" and isinstance(value, str):
        _check_grammar(value)
    elif name == BREAKERS and isinstance(value, list):
        _check(len(value), MOST_BREAKERS, BREAKERS, "has {} entries")


def _check_keys(body: Body) -> None:
    _check(len(body.fields), MOST_KEYS, "the body", "has {} keys")
    if not body.has_more_than(MOST_KEYS, b":"):
        return
    for name, raw in body.fields.items():
        if bytes(raw).count(b":") <= MOST_KEYS:
            continue
        for _, part in _parts(_value(body, name)):
            if isinstance(part, dict):
                _check(len(part), MOST_KEYS, name, "has an object of {} keys")


def check_schema(value: Any, name: str) -> None:
    """The same for a value that has JSON schemas in it, the field `name` of a request."""
    count = 0
    for level, part in _parts(value):
        count += 1
        _check(level, MOST_LEVELS, name, "is nested {} levels deep")
        _check(count, MOST_VALUES, name, "has {} values")
        if isinstance(part, dict):
            _check_object(part, name)


def _is_small(text: bytes) -> bool:
    """Whether a value is within all limits of schemas by its signs alone, as nearly all are: no
    object or list in it has more entries than it has commas, nor is it nested deeper than it has
    brackets. Of a list, each entry is counted by itself."""
    if text.count(b",") + text.count(b"{") + text.count(b"[") >= MOST_VALUES:
        return False
    entries = _entries.decode(text) if text[:1] == b"[" else (text,)
    return all(
        entry.count(b",") < MOST_OPTIONAL and entry.count(b"{") + entry.count(b"[") < MOST_LEVELS
        for entry in map(bytes, entries)
    )


def _parts(value: Any) -> Iterator[tuple[int, Any]]:
    """All values in a value, itself first, each with how deep it lies. Without recursion: the depth
    is what is to be found out."""
    left = [(0, value)]
    while left:
        level, part = left.pop()
        yield level, part
        if isinstance(part, dict | list):
            inside = part.values() if isinstance(part, dict) else part
            left += [(level + 1, each) for each in inside]


def _check_object(schema: dict[str, Any], name: str) -> None:
    if isinstance(choices := schema.get("enum"), list):
        _check(len(choices), MOST_CHOICES, name, "has an enum of {} values")
    if isinstance(properties := schema.get("properties"), dict):
        required = schema.get("required")
        known = len(required) if isinstance(required, list) else 0
        what = "has an object of {} optional properties"
        _check(len(properties) - known, MOST_OPTIONAL, name, what)


def _check_grammar(text: str) -> None:
    _check(len(text), MOST_GRAMMAR_CHARACTERS, "grammar", "has {} characters")
    for what, most in MOST_IN_GRAMMAR:
        _check(text.count(what), most, "grammar", f"has {{}} times {what}")


def _check_triggers(triggers: Any) -> None:
    if not isinstance(triggers, list):
        return
    name = "grammar_triggers"
    _check(len(triggers), MOST_TRIGGERS, name, "has {} entries")
    for trigger in triggers:
        if isinstance(trigger, dict) and isinstance(value := trigger.get("value"), str):
            _check(len(value), MOST_TRIGGER_CHARACTERS, name, "has a value of {} characters")


def _check(count: int, most: int, name: str, what: str) -> None:
    if count > most:
        told = what.format(count)
        raise BadRequest(f"{name}: it {told}, and more than {most} are not taken", param=name)


def _value(body: Body, name: str) -> Any:
    raw = body.fields.get(name)
    try:
        return None if raw is None else msgspec.json.decode(raw)
    except RecursionError as error:
        raise BadRequest(f"{name}: it is nested too deep", param=name) from error
