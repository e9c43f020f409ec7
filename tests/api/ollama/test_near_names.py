"""A name that is nearly right: Ollama's own words first, since clients look for them."""

import ollama
import pytest

pytestmark = pytest.mark.llama


def test_what_comes_close_is_named_behind_ollamas_words(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError) as chat:
        client.chat("lama3.1", [{"role": "user", "content": "Hi"}])
    with pytest.raises(ollama.ResponseError) as embed:
        client.embed("lama3.1", "Hi")

    assert (chat.value.status_code, embed.value.status_code) == (404, 404)
    assert chat.value.error.startswith("model 'lama3.1' not found; did you mean llama3.1")
    assert 'model "lama3.1" not found, try pulling it first; did you mean llama3.1' in (
        embed.value.error
    )
