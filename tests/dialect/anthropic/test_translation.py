"""Which requests are Anthropic's, and who answers them."""

import json
from typing import Any

import pytest

from proxy.dialect.anthropic.translation import translate
from proxy.dialect.body import Body

ASKED = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}'


@pytest.mark.parametrize(
    ("path", "target", "defaults"),
    [
        ("/v1/messages", "/v1/chat/completions", {"max_tokens": 4096}),
        ("/v1/messages/count_tokens", "/v1/chat/completions/input_tokens", {}),
    ],
)
def test_its_own(path: str, target: str, defaults: object) -> None:
    made = translate(path, Body(ASKED))

    assert made is not None
    assert (made.target, made.defaults) == (target, defaults)
    assert made.body.encode() == ASKED.replace(b": ", b":").replace(b", ", b",")


@pytest.mark.parametrize("stop", ["a", ["a"], ["b", "a"]])
def test_stop_is_another_name_of_its_sequences(stop: Any) -> None:
    made = translate("/v1/messages", Body.of(json.loads(ASKED) | {"stop": stop}))

    assert made is not None
    assert json.loads(made.body.encode())["stop"] == ([stop] if isinstance(stop, str) else stop)
    for word, reason in (("a", "stop_sequence"), ("c", "end_turn")):
        choice = {"message": {"content": "x"}, "finish_reason": "stop"}
        answer = {"choices": [choice], "__verbose": {"stopping_word": word}}
        rewrite = made.rewriter(False)
        assert rewrite is not None
        rewrite.feed(json.dumps(answer).encode())
        assert json.loads(rewrite.end())["stop_reason"] == reason


def test_others() -> None:
    assert translate("/v1/chat/completions", Body(b"{}")) is None
