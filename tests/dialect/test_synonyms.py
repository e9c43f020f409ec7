"""One thing by several names."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from proxy.dialect.body import Body
from proxy.dialect.synonyms import LENGTHS, SAME, as_taken, by_known_names, still_open


def raw(fields: Mapping[str, Any]) -> dict[str, msgspec.Raw]:
    return {name: msgspec.Raw(json.dumps(value).encode()) for name, value in fields.items()}


@pytest.mark.parametrize("group", SAME, ids=lambda group: group[0])
def test_who_says_a_thing_by_one_name_has_said_it_by_all(group: tuple[str, ...]) -> None:
    defaults = dict.fromkeys(group, 1) | {"seed": 1}

    for name in group:
        for said in ({name: "x"}, raw({name: "x"})):
            assert still_open(defaults, said) == {"seed": 1}
        assert still_open(defaults, {name: None}) == defaults
        assert still_open(defaults, raw({name: None})) == defaults


@pytest.mark.parametrize(
    ("defaults", "said", "left"),
    [
        # A default of one half breaks a request that says the other one.
        ({"top_logprobs": 5, "logprobs": True}, {"logprobs": False}, {}),
        ({"top_logprobs": 5, "logprobs": True}, {"top_logprobs": 1}, {"logprobs": True}),
        # Whether a model thinks may also stand among its template's arguments.
        (
            {"chat_template_kwargs": {"enable_thinking": False, "tone": "dry"}},
            {"reasoning_effort": "high"},
            {"chat_template_kwargs": {"tone": "dry"}},
        ),
        (
            {"reasoning_effort": "none"},
            {"chat_template_kwargs": {"enable_thinking": True}},
            {},
        ),
        (
            {"reasoning_effort": "none"},
            {"chat_template_kwargs": {"tone": "dry"}},
            {"reasoning_effort": "none"},
        ),
        ({"grammar": "root ::= x"}, {"response_format": {"type": "text"}}, {}),
        ({"thinking_budget_tokens": 5}, {"thinking": {"type": "enabled"}}, {}),
        (
            {"chat_template_kwargs": {"enable_thinking": False}},
            {"thinking": {"type": "disabled"}},
            {"chat_template_kwargs": {"enable_thinking": False}},
        ),
    ],
)
def test_defaults_that_are_left(
    defaults: dict[str, Any], said: dict[str, Any], left: dict[str, Any]
) -> None:
    assert still_open(defaults, said) == left
    assert still_open(defaults, raw(said)) == left


@pytest.mark.parametrize("name", LENGTHS)
def test_a_length_is_said_by_a_name_that_is_seen(name: str) -> None:
    said = {**raw({name: 2}), **by_known_names(raw({name: 2}))}

    seen = {"n_predict", "max_tokens", "max_completion_tokens"} & set(said)
    assert seen
    assert bytes(said[next(iter(seen))]) == b"2"


def test_ollamas_own_name_has_ollamas_zero() -> None:
    assert by_known_names(raw({"num_predict": 0})) == {"n_predict": -1}
    assert by_known_names({"num_predict": -2}) == {"n_predict": -1}
    assert by_known_names(raw({"max_output_tokens": 0}))["n_predict"] == msgspec.Raw(b"0")


@pytest.mark.parametrize(
    ("fields", "taken"),
    [
        ({"max_tokens": -2}, {"max_tokens": -1}),
        ({"n_predict": -9, "n_keep": -9}, {"n_predict": -1, "n_keep": -1}),
        ({"max_tokens": 10**12}, {"max_tokens": 2**31 - 1}),
        ({"repeat_last_n": -1}, {"repeat_last_n": 2**31 - 1}),
        ({"repeat_penalty": 0}, {"repeat_penalty": 1.0}),
        ({"repeat_penalty": -1.5}, {"repeat_penalty": 1.0}),
        ({"max_tokens": 0, "n_keep": -1, "repeat_last_n": 0, "repeat_penalty": 0.5}, {}),
        ({"max_tokens": "2", "repeat_last_n": None, "n_keep": True, "seed": -5}, {}),
    ],
)
def test_numbers_that_would_be_refused(fields: dict[str, Any], taken: dict[str, Any]) -> None:
    assert as_taken(raw(fields)) == taken
    body = Body(json.dumps(fields).encode())
    body.say_known_names()
    assert json.loads(body.encode()) == fields | taken


def test_what_is_seen_already_is_not_said_twice() -> None:
    assert by_known_names(raw({"max_tokens": 2, "max_output_tokens": 3})) == {}
    assert by_known_names(raw({"max_tokens": None, "max_output_tokens": 3})) != {}
    assert by_known_names(raw({"stop": ["a"], "stop_sequences": ["b"]})) == {}


def test_null_gives_way_to_a_default() -> None:
    body = Body(b'{"seed": null, "n": 1}')
    body.add_defaults({"seed": 5})

    assert json.loads(body.encode()) == {"seed": 5, "n": 1}
    assert body.encode().count(b"seed") == 1
