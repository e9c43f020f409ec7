"""Models with a manifest of their own: what it says holds for every request that says nothing."""

from collections.abc import Iterator

import ollama
import pytest

from tests.api.ollama.conftest import TINY

pytestmark = pytest.mark.llama
NAME = "brief"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def brief(client: ollama.Client) -> Iterator[str]:
    client.create(
        NAME,
        from_=TINY,
        system="be brief " * 20,
        parameters={"num_predict": 3, "temperature": 0, "moe_cpu_layers": 2},
        messages=[{"role": "user", "content": "before " * 30}],
    )
    yield NAME
    client.delete(NAME)


def test_what_its_manifest_says(client: ollama.Client, brief: str) -> None:
    # A prompt that is cached rounds otherwise than one that is not, so both are.
    client.chat(brief, HELLO)
    plain = client.chat(TINY, HELLO, options={"num_predict": 1})
    chat = client.chat(brief, HELLO)
    generated = client.generate(brief, "hello")
    own_system = client.chat(brief, [{"role": "system", "content": "x"}, *HELLO])

    assert (chat.eval_count, generated.eval_count) == (3, 3)
    assert client.chat(brief, HELLO, options={"num_predict": 2}).eval_count == 2
    assert chat.prompt_eval_count == generated.prompt_eval_count, "cached tokens count, too"
    assert chat.message.content == generated.response, "the same conversation"
    counts = [answer.prompt_eval_count or 0 for answer in (plain, own_system, chat)]
    assert counts == sorted(set(counts)), "its messages come first, its system if none is given"


def test_it_is_shown(client: ollama.Client, brief: str) -> None:
    shown = client.show(brief).model_dump()

    assert "num_predict                    3" in shown["parameters"]
    assert f"{brief}:latest" in [entry.model for entry in client.list().models]
