"""How much a model is to think, in the words of many clients."""

import json
from typing import Any

import pytest

from proxy.dialect.body import Body
from proxy.dialect.effort import say_effort

THINKS = {"chat_template_kwargs": {"enable_thinking": True}}


def told(fields: dict[str, Any]) -> dict[str, Any]:
    """What is said besides."""
    body = Body(json.dumps({"model": "m", **fields}).encode())
    say_effort(body)
    made = json.loads(body.encode())
    return {
        name: value for name, value in made.items() if {"model": "m", **fields}.get(name) != value
    }


@pytest.mark.parametrize(
    ("fields", "effort"),
    [
        ({"reasoning": {"effort": "none"}}, "none"),
        ({"reasoning": {"effort": "high", "summary": "auto"}}, "high"),
        ({"reasoning": {"enabled": False}}, "none"),
        ({"think": False}, "none"),
        ({"think": "low"}, "low"),
        ({"thinking": {"type": "disabled"}}, "none"),
        ({"thinking": False}, "none"),
        ({"enable_thinking": False}, "none"),
        ({"enable_thinking": False, "chat_template_kwargs": {"tone": "dry"}}, "none"),
    ],
)
def test_an_effort_by_other_names(fields: dict[str, Any], effort: str) -> None:
    assert told(fields) == {"reasoning_effort": effort}


@pytest.mark.parametrize(
    "fields",
    [
        {"think": True},
        {"thinking": {"type": "enabled"}},
        {"thinking": True},
        {"enable_thinking": True},
    ],
)
def test_that_it_is_to_think(fields: dict[str, Any]) -> None:
    assert told(fields) == THINKS


def test_how_long() -> None:
    enabled = {"type": "enabled", "budget_tokens": 100}
    assert told({"thinking": enabled}) == THINKS | {"thinking_budget_tokens": 100}
    assert told({"reasoning": {"max_tokens": 9}}) == {"thinking_budget_tokens": 9}
    assert told({"thinking": enabled, "thinking_budget_tokens": 7}) == THINKS


def test_what_is_beside_it_stays() -> None:
    made = told({"think": True, "chat_template_kwargs": {"tone": "dry"}})
    assert made == {"chat_template_kwargs": {"tone": "dry", "enable_thinking": True}}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"reasoning_effort": "low", "think": False},
        {"think": False, "chat_template_kwargs": {"enable_thinking": True}},
        {"reasoning": {}},
        {"reasoning": {"effort": None}},
        {"think": ""},
        {"think": 5},
        {"thinking": {"type": "later"}},
        {"thinking": [], "chat_template_kwargs": 5},
        {"think": True, "chat_template_kwargs": 5},
    ],
)
def test_what_says_nothing_or_was_said(fields: dict[str, Any]) -> None:
    assert told(fields) == {}
