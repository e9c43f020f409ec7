"""What is refused before llama-server sees it. What it does with such things is tried in
tests/api/test_poison.py."""

from typing import Any

import msgspec
import pytest

from proxy.dialect import limits
from proxy.dialect.body import Body
from proxy.dialect.limits import check_limits, check_schema
from proxy.errors import BadRequest


def check(**fields: Any) -> None:
    check_limits(Body(msgspec.json.encode({"model": "m", **fields})))


def nested(levels: int) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def optional(count: int, required: int = 0) -> dict[str, Any]:
    names = [f"p{number}" for number in range(count)]
    return {"properties": {name: {} for name in names}, "required": names[:required]}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("(" * 5001, r"it has 5001 times \(, and more than 5000 are not taken"),
        ("a ::= b\n" * 5001, "it has 5001 times ::="),
        ("a|" * 10001, r"it has 10001 times \|"),
        ("a" * (limits.MOST_GRAMMAR_CHARACTERS + 1), "it has 262145 characters"),
    ],
)
def test_a_grammar_that_takes_too_much_stack_or_time(text: str, told: str) -> None:
    with pytest.raises(BadRequest, match=f"^grammar: {told}") as error:
        check(grammar=text)

    assert error.value.param == "grammar"
    check(grammar=text[: len(text) // 2])


def test_a_name_with_escapes_hides_nothing() -> None:
    with pytest.raises(BadRequest):
        check_limits(Body(b'{"gr\\u0061mmar": "%s"}' % (b"(" * 5001)))


def test_triggers() -> None:
    check(grammar_triggers=[{"type": 2, "value": "(" * 1000}] * 64)

    with pytest.raises(BadRequest, match="65 entries"):
        check(grammar_triggers=[{"value": "a"}] * 65)
    with pytest.raises(BadRequest, match="a value of 1001 characters"):
        check(grammar_triggers=[{"value": "(" * 1001}])


@pytest.mark.parametrize(
    "place",
    [
        lambda schema: {"json_schema": schema},
        lambda schema: {"response_format": {"json_schema": {"schema": schema}}},
        lambda schema: {"tools": [{"function": {"parameters": schema}}]},
        lambda schema: {"tools": [{"name": "f", "input_schema": schema}]},
        lambda schema: {"text": {"format": {"schema": schema}}},
        lambda schema: {"functions": [{"parameters": schema}]},
    ],
)
@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (nested(201), "levels deep"),
        ({"enum": list(range(3001))}, "an enum of 3001 values"),
        (optional(1001), "an object of 1001 optional properties"),
        ({"anyOf": [{}] * 50001}, "values"),
    ],
)
def test_a_schema_that_takes_minutes_wherever_it_stands(place: Any, schema: Any, told: str) -> None:
    with pytest.raises(BadRequest, match=f"{told}, and more than"):
        check(**place(schema))


def test_schemas_as_people_have_them_are_taken() -> None:
    check(json_schema=nested(90) | {"enum": ["a"] * 3000})
    check(json_schema=optional(3000, required=2000))
    check(json_schema={"properties": {"properties": {"enum": {"enum": "x"}}}, "required": 5})
    check(json_schema=True, tools="x", response_format=5, grammar=7, grammar_triggers=[1, {}, "x"])


def test_what_is_nested_so_deep_that_nobody_can_tell_how_deep() -> None:
    deep = b"[" * 900 + b"]" * 900
    with pytest.raises(BadRequest, match=r"^tools: it is nested"):
        check_limits(Body(b'{"tools": ' + deep + b"}"))


def test_a_single_value_of_another_protocol() -> None:
    check_schema(None, "format")
    check_schema("json", "format")
    with pytest.raises(BadRequest, match=r"^format: "):
        check_schema(nested(201), "format")


@pytest.mark.parametrize(
    ("field", "item"),
    [
        ("prompt", "a"),
        ("prompt", [1]),
        ("prompt", {"prompt_string": "a"}),
        ("input", "a"),
        ("documents", {"text": "a"}),
    ],
)
def test_inputs_that_keep_a_worker_busy(field: str, item: Any) -> None:
    check(**{field: [item] * limits.MOST_INPUTS})

    with pytest.raises(BadRequest, match=f"^{field}: it has 2049 inputs") as error:
        check(**{field: [item] * (limits.MOST_INPUTS + 1)})

    assert error.value.param == field


def test_one_long_input_is_one() -> None:
    check(prompt=[1] * 100_000)
    check(input=[{"role": "user"}] * 3000)
    check(content="a" * 100_000)


def test_sequence_breakers() -> None:
    """10,000 held up all answers of a small model for 5 s; real ones have 75 times the tokens."""
    check(dry_sequence_breakers=["a"] * 100)

    with pytest.raises(BadRequest, match=r"^dry_sequence_breakers: it has 101 entries"):
        check(dry_sequence_breakers=["a"] * 101)


def test_an_object_of_more_keys_than_anybody_means() -> None:
    """llama-server would look through all of them for each one."""
    most = limits.MOST_KEYS
    keys = {str(number): number for number in range(most + 1)}
    enough = dict(list(keys.items())[:most])

    check(logit_bias=enough, messages=[{"role": "user", "content": ":" * 3 * most}])
    check(messages=[{"role": "user", "content": "a: b"}] * most)
    for fields in ({"logit_bias": keys}, {"messages": [{"content": [{"a": keys}]}]}):
        with pytest.raises(BadRequest, match=r"has an object of 10001 keys, and more than 10000"):
            check(**fields)
    with pytest.raises(BadRequest, match="the body: it has 10002 keys"):
        check(**keys)


@pytest.mark.parametrize(
    "value",
    [
        [nested(limits.MOST_LEVELS - 1)],
        [nested(1), {"properties": {f"p{number}": {} for number in range(1001)}}],
        [{"enum": [*range(limits.MOST_CHOICES + 1)]}],
        [[1, 2]] * (limits.MOST_VALUES // 3 + 1),
        nested(limits.MOST_LEVELS),
    ],
)
def test_what_is_too_much_is_found_wherever_it_stands(value: Any) -> None:
    with pytest.raises(BadRequest):
        check(tools=value)


def test_what_is_just_allowed_passes_wherever_it_stands() -> None:
    check(tools=[nested(limits.MOST_LEVELS - 2)], text=nested(limits.MOST_LEVELS - 1))
    check(tools=[optional(limits.MOST_OPTIONAL), {"enum": [*range(limits.MOST_CHOICES)]}])
