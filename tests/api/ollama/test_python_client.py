"""The `ollama` package for Python, blocking and async, against a running proxy."""

import json

import ollama
import pytest

from proxy.dialect.limits import MOST_INPUTS
from tests.api.ollama.conftest import CODER, EMBEDDER, TINY, Raw

pytestmark = pytest.mark.llama
SHORT = {"num_predict": 6, "temperature": 0}
HELLO = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"]}


def test_generate(client: ollama.Client) -> None:
    answer = client.generate(TINY, "hello", options=SHORT)

    assert answer.response
    assert answer.done_reason == "length"
    assert answer.eval_count == 6
    assert answer.total_duration is not None
    assert answer.load_duration is not None
    assert answer.total_duration > answer.load_duration > 0


def test_generate_streamed_is_the_same_text(client: ollama.Client) -> None:
    pieces = list(client.generate(TINY, "hello", options=SHORT, stream=True))

    whole = client.generate(TINY, "hello", options=SHORT)
    assert "".join(piece.response or "" for piece in pieces) == whole.response
    assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert pieces[-1].context == whole.context


async def test_generate_async(async_client: ollama.AsyncClient) -> None:
    whole = await async_client.generate(TINY, "hello", options=SHORT)
    stream = await async_client.generate(TINY, "hello", options=SHORT, stream=True)

    assert "".join([piece.response or "" async for piece in stream]) == whole.response


def test_a_prompt_as_it_is(client: ollama.Client) -> None:
    answer = client.generate(TINY, "once upon", raw=True, options=SHORT)

    assert answer.prompt_eval_count
    assert answer.prompt_eval_count < 8, "no template around it"
    assert answer.context is None


def test_what_belongs_between(client: ollama.Client) -> None:
    prompt = client.generate(CODER, "def f():", options=SHORT)
    gap = client.generate(CODER, "def f():", suffix="return 1", options=SHORT)

    assert gap.eval_count == 6
    assert gap.response != prompt.response
    with pytest.raises(ollama.ResponseError, match='"tiny:4l" does not support insert') as error:
        client.generate(TINY, "def f():", suffix="return 1")
    assert error.value.status_code == 400


def test_an_image_for_a_model_that_cannot_see(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="does not take images") as error:
        client.generate(TINY, "what is it?", images=[b"\x89PNG"])
    assert error.value.status_code == 400


def test_a_conversation_goes_on_by_its_context(client: ollama.Client) -> None:
    first = client.generate(TINY, "hello", options=SHORT)
    assert first.context

    second = client.generate(TINY, "more", context=first.context, options=SHORT)

    assert second.context
    assert second.context[: len(first.context)] == first.context
    assert second.prompt_eval_count
    assert second.prompt_eval_count > len(first.context)


def test_chat(client: ollama.Client) -> None:
    answer = client.chat(TINY, HELLO, options=SHORT)
    pieces = list(client.chat(TINY, HELLO, options=SHORT, stream=True))

    assert answer.message.role == "assistant"
    assert answer.message.content
    assert "".join(piece.message.content or "" for piece in pieces) == answer.message.content
    assert pieces[-1].eval_count == 6


async def test_chat_async(async_client: ollama.AsyncClient) -> None:
    answer = await async_client.chat(TINY, HELLO, options=SHORT)
    stream = await async_client.chat(TINY, HELLO, options=SHORT, stream=True)

    pieces = [piece.message.content or "" async for piece in stream]
    assert "".join(pieces) == answer.message.content


def test_an_answer_by_a_schema(client: ollama.Client) -> None:
    answer = client.chat(TINY, HELLO, format=SCHEMA, options={"num_predict": 60})

    assert json.loads(answer.message.content or "")["sure"] in (True, False)


def test_a_prompt_answered_by_a_schema(client: ollama.Client) -> None:
    for raw in (False, True):
        answer = client.generate(TINY, "x", raw=raw, format=SCHEMA, options={"num_predict": 60})
        assert json.loads(answer.response or "")["sure"] in (True, False)


def test_any_json(client: ollama.Client) -> None:
    answer = client.chat(TINY, HELLO, format="json", options=SHORT)

    assert (answer.message.content or "").lstrip().startswith("{")


def test_probabilities(client: ollama.Client) -> None:
    for answer in (
        client.chat(TINY, HELLO, options=SHORT, logprobs=True, top_logprobs=3),
        client.generate(TINY, "x", options=SHORT, logprobs=True, top_logprobs=3),
        client.generate(TINY, "x", raw=True, options=SHORT, logprobs=True, top_logprobs=3),
    ):
        assert answer.logprobs is not None
        assert len(answer.logprobs) == 6
        assert all(len(entry.top_logprobs or ()) == 3 for entry in answer.logprobs)
        assert all(entry.logprob <= 0 for entry in answer.logprobs)


def test_stop_and_seed(client: ollama.Client) -> None:
    whole = client.generate(TINY, "x", options=SHORT | {"seed": 3, "temperature": 1})
    again = client.generate(TINY, "x", options=SHORT | {"seed": 3, "temperature": 1})
    words = (whole.response or "").split()

    cut = client.generate(
        TINY, "x", options=SHORT | {"seed": 3, "temperature": 1, "stop": [words[2]]}
    )

    assert again.response == whole.response
    assert cut.done_reason == "stop"
    assert (cut.response or "").split() == words[:2]


def test_embed(client: ollama.Client) -> None:
    one = client.embed(EMBEDDER, "hello")
    two = client.embed(EMBEDDER, ["hello", "world"], dimensions=8)

    assert one.prompt_eval_count
    assert len(one.embeddings[0]) == 256
    assert sum(x * x for x in one.embeddings[0]) == pytest.approx(1, abs=1e-4)
    assert [len(vector) for vector in two.embeddings] == [8, 8]
    assert sum(x * x for x in two.embeddings[1]) == pytest.approx(1, abs=1e-6)
    assert client.embeddings(EMBEDDER, "hello").embedding == pytest.approx(one.embeddings[0])


async def test_embed_async(async_client: ollama.AsyncClient) -> None:
    answer = await async_client.embed(EMBEDDER, ["a", "b"], keep_alive="5m")

    assert len(answer.embeddings) == 2
    assert len((await async_client.embeddings(EMBEDDER, "a")).embedding) == 256


def test_more_texts_than_llama_server_is_given_at_a_time(client: ollama.Client) -> None:
    """Its clients send all that they have, and get all of it in its order."""
    texts = ["first", *["a"] * (MOST_INPUTS + 3), "last"]
    found = client.embed(EMBEDDER, texts)

    assert len(found.embeddings) == len(texts)
    assert (found.prompt_eval_count or 0) >= len(texts)
    for index in (0, 1, MOST_INPUTS - 1, MOST_INPUTS, -1):
        (alone,) = client.embed(EMBEDDER, texts[index]).embeddings
        assert found.embeddings[index] == pytest.approx(alone, abs=1e-4)


def test_text_that_is_too_long_to_embed(client: ollama.Client) -> None:
    cut = client.embed(EMBEDDER, ["word " * 2000, "short"])

    assert len(cut.embeddings) == 2
    with pytest.raises(ollama.ResponseError, match="input length exceeds the context length") as e:
        client.embed(EMBEDDER, "word " * 2000, truncate=False)
    assert e.value.status_code == 400


def test_a_chat_model_embeds(client: ollama.Client) -> None:
    answer = client.embed(CODER, ["hello", "word " * 2000])

    assert [len(vector) for vector in answer.embeddings] == [64, 64]


def test_list_and_show(client: ollama.Client) -> None:
    listed = {entry.model: entry for entry in client.list().models}
    shown = client.show(TINY)

    assert TINY in listed
    assert "encoder:latest" in listed
    assert listed[TINY].size
    assert len(listed[TINY].digest or "") == 64
    assert shown.capabilities == ["completion"]
    assert client.show(EMBEDDER).capabilities == ["embedding"]
    assert client.show("qwen3").capabilities == ["completion", "tools", "thinking"]
    assert shown.modelinfo
    assert shown.modelinfo["qwen3moe.block_count"] == 4
    assert shown.modelinfo["tokenizer.ggml.tokens"] is None
    assert "im_start" in (shown.template or "")


def test_load_and_unload(client: ollama.Client) -> None:
    assert client.generate(TINY).done_reason == "load"
    assert client.chat(TINY, keep_alive="1h").done_reason == "load"
    loaded = {entry.model: entry for entry in client.ps().models}
    assert loaded[TINY].context_length == 1024
    assert loaded[TINY].size
    assert loaded[TINY].size_vram == 0
    assert loaded[TINY].expires_at is not None

    assert client.generate(TINY, keep_alive=0).done_reason == "unload"

    assert TINY not in [entry.model for entry in client.ps().models]
    assert client.chat(TINY, [], keep_alive="0s").done_reason == "unload", "nothing to do"


def test_the_last_request_may_take_the_model_with_it(client: ollama.Client) -> None:
    client.generate(TINY, "hello", options=SHORT, keep_alive=0)

    assert TINY not in [entry.model for entry in client.ps().models]


def test_names(client: ollama.Client) -> None:
    """Upper and lower case, `latest`, aliases, and the split in the name."""
    for name in ("TINY:4L", "gpt-4o", "gpt-4o:latest", f"{TINY}?moe_cpu_layers=2"):
        assert client.generate(name, "x", options=SHORT).model == name
    assert client.embed("Encoder:latest", "x").embeddings


def test_options_of_loading_do_not_load_again(client: ollama.Client, raw: Raw) -> None:
    def loaded() -> list[tuple[str, int]]:
        backends = raw.get("/admin/state")["backends"]
        return [(b["id"], b["pid"]) for b in backends if b["model"] == TINY]

    client.generate(TINY, keep_alive=30)
    before = loaded()

    client.generate(
        TINY,
        "x",
        options=SHORT
        | {"num_ctx": 512, "num_gpu": 1, "num_batch": 64, "num_thread": 2, "use_mmap": False}
        | {"main_gpu": 0, "nonsense": 1, "tfs_z": 1.0, "num_cpu_moe": 3},
    )

    assert loaded() == before
    assert len(before) == 1


def test_a_conversation_longer_than_the_context(client: ollama.Client) -> None:
    """The oldest messages are left out; what the system says stays."""
    long = {"role": "user", "content": "word " * 300}
    messages = [{"role": "system", "content": "be brief"}, *[long] * 6, *HELLO]

    answer = client.chat(TINY, messages, options=SHORT)

    assert answer.message.content
    assert 600 < (answer.prompt_eval_count or 0) < 1024
    with pytest.raises(ollama.ResponseError, match=r"increasing it: ctx in .* or num_ctx") as error:
        client.chat(TINY, [{"role": "user", "content": "word " * 2000}], options=SHORT)
    assert error.value.status_code == 400


@pytest.mark.parametrize(
    ("name", "options", "status", "message"),
    [
        ("nope", {}, 404, "model 'nope' not found"),
        ("gpt-oss:120b-cloud", {}, 403, "cloud is disabled"),
        (EMBEDDER, {}, 400, '"encoder" does not support chat'),
        (TINY, {"temperature": "hot"}, 400, 'option "temperature" must be of type float32'),
        (TINY, {"num_predict": True}, 400, 'option "num_predict" must be of type integer'),
        (TINY, {"stop": "x"}, 400, 'option "stop" must be of type array'),
        (TINY, {"moe_cpu_layers": "some"}, 400, "options.moe_cpu_layers"),
        (f"{TINY}?moe_cpu_layers=1", {"n_cpu_moe": 2}, 400, "give one of them"),
    ],
)
def test_what_is_refused(
    client: ollama.Client, name: str, options: dict[str, object], status: int, message: str
) -> None:
    with pytest.raises(ollama.ResponseError, match=message.replace("?", r"\?")) as error:
        client.chat(name, HELLO, options=options)
    assert error.value.status_code == status

    with pytest.raises(ollama.ResponseError) as streamed:
        list(client.chat(name, HELLO, options=options, stream=True))
    assert streamed.value.status_code == status


async def test_errors_async(async_client: ollama.AsyncClient) -> None:
    with pytest.raises(ollama.ResponseError, match="not found, try pulling it first") as error:
        await async_client.embed("nope", "x")
    assert error.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="'nope:latest' not found"):
        await async_client.show("nope")
    with pytest.raises(ollama.ResponseError, match="does not push") as error:
        await async_client.push(TINY)
    assert error.value.status_code == 400
