"""Which requests are Anthropic's, and who answers them."""

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


def test_others() -> None:
    assert translate("/v1/chat/completions", Body(b"{}")) is None
