"""`anthropic`: messages, blocking and async, streamed and whole."""

from typing import Any

import anthropic
import pytest

from tests.api.clients.conftest import ALIAS, TINY, USER

pytestmark = pytest.mark.llama
SHORT: Any = {"model": TINY, "messages": [USER], "max_tokens": 6}
BEGUN = '<tool_call>\n{"name": "'


def tool(name: str) -> Any:
    city = {"type": "string", "enum": ["Rome", "Oslo"]}
    schema = {"type": "object", "properties": {"city": city}, "required": ["city"]}
    return {"name": name, "description": "of a city", "input_schema": schema}


CALLING: Any = {
    "model": "qwen3",
    "messages": [USER, {"role": "assistant", "content": BEGUN}],
    "max_tokens": 100,
    "tools": [tool("get_weather"), tool("get_time")],
    "tool_choice": {"type": "any"},
    # The grammar begins where the thoughts end.
    "extra_body": {"chat_template_kwargs": {"enable_thinking": False}},
}


def test_models(theirs: anthropic.Anthropic) -> None:
    """They ask for pages, and all are on the first one."""
    listed = {entry.id: entry for entry in theirs.models.list(limit=1)}

    assert {TINY, "qwen3"} <= listed.keys()
    found = listed[TINY]
    assert (found.type, found.display_name) == ("model", TINY)
    assert found.created_at.year > 2000
    assert theirs.models.retrieve(ALIAS) == theirs.models.retrieve(TINY) == found


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def calls_of(message: Any) -> list[Any]:
    return [block for block in message.content if block.type == "tool_use"]


def size(message: Any) -> int:
    """How many tokens a message answers."""
    return int(message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0))


def test_whole_and_streamed_are_the_same_text(theirs: anthropic.Anthropic) -> None:
    theirs.messages.create(**SHORT)  # what is cached rounds otherwise
    whole = theirs.messages.create(**SHORT)
    events = list(theirs.messages.create(**SHORT, stream=True))
    with theirs.messages.stream(**SHORT) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()

    assert whole.type == "message"
    assert whole.role == "assistant"
    assert whole.stop_reason == "max_tokens"
    assert whole.usage.output_tokens == 6
    assert "".join(pieces) == text_of(whole) == text_of(final)
    assert final.stop_reason == "max_tokens"
    kinds = [event.type for event in events]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert {"content_block_start", "content_block_delta", "content_block_stop"} <= set(kinds)


async def test_async(theirs_async: anthropic.AsyncAnthropic) -> None:
    whole = await theirs_async.messages.create(**SHORT | {"model": ALIAS})
    async with theirs_async.messages.stream(**SHORT | {"model": ALIAS}) as stream:
        final = await stream.get_final_message()

    assert whole.model == TINY, "the model that an alias stands for"
    assert text_of(whole)
    assert final.usage.output_tokens == 6


def test_what_the_system_says(theirs: anthropic.Anthropic) -> None:
    blocks: Any = [{"type": "text", "text": "be brief"}]
    plain = theirs.messages.create(**SHORT)
    told = theirs.messages.create(**SHORT, system="be brief")
    in_blocks = theirs.messages.create(**SHORT, system=blocks)

    assert size(told) == size(in_blocks) > size(plain)


def test_stop_sequences(theirs: anthropic.Anthropic) -> None:
    theirs.messages.create(**SHORT)
    text = text_of(theirs.messages.create(**SHORT))
    stop = text.split()[2]
    cut = theirs.messages.create(**SHORT, stop_sequences=[stop])

    assert cut.stop_sequence == stop
    assert cut.stop_reason == "end_turn", "llama-server's word for it; Anthropic's is stop_sequence"
    assert text_of(cut) == text[: text.index(stop)]


def test_tokens_are_counted(theirs: anthropic.Anthropic) -> None:
    count = theirs.messages.count_tokens(model=TINY, messages=[USER])
    more = theirs.messages.count_tokens(model=TINY, messages=[USER], system="be brief")
    answer = theirs.messages.create(**SHORT)

    assert count.input_tokens == size(answer)
    assert more.input_tokens > count.input_tokens


def test_a_tool_is_called(theirs: anthropic.Anthropic) -> None:
    whole = theirs.messages.create(**CALLING)
    with theirs.messages.stream(**CALLING) as stream:
        final = stream.get_final_message()

    assert whole.stop_reason == final.stop_reason == "tool_use"
    for message in (whole, final):
        (call,) = calls_of(message)
        assert call.name in ("get_weather", "get_time")
        assert call.input["city"] in ("Rome", "Oslo")
        assert call.id


@pytest.mark.parametrize("name", ["get_weather", "get_time"])
def test_a_named_tool(theirs: anthropic.Anthropic, name: str) -> None:
    message = theirs.messages.create(**CALLING | {"tool_choice": {"type": "tool", "name": name}})

    assert [call.name for call in calls_of(message)] == [name]


def test_none_makes_text_of_a_call(theirs: anthropic.Anthropic) -> None:
    none = {"tool_choice": {"type": "none"}, "max_tokens": 4}
    message = theirs.messages.create(**CALLING | none)

    assert text_of(message).startswith("<tool_call>")


def test_results_go_back(theirs: anthropic.Anthropic) -> None:
    asked = theirs.messages.create(**CALLING)
    (call,) = calls_of(asked)
    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    done: Any = {"role": "assistant", "content": "It is"}
    conversation: Any = [
        USER,
        {"role": "assistant", "content": asked.content},
        {"role": "user", "content": [result]},
        done,
    ]
    message = theirs.messages.create(model="qwen3", max_tokens=4, messages=conversation)
    without = theirs.messages.create(model="qwen3", max_tokens=4, messages=[USER, done])

    assert text_of(message).startswith("It is")
    assert size(message) > size(without) + 10


def test_thinking(theirs: anthropic.Anthropic) -> None:
    """What was thought is given, as policies' grammars do not come to this endpoint."""
    begun: Any = {
        "role": "assistant",
        "content": [{"type": "thinking", "thinking": "I think", "signature": ""}],
    }
    ask: Any = {"model": "qwen3", "max_tokens": 1024}
    ask |= {"messages": [USER, begun], "thinking": {"type": "enabled", "budget_tokens": 1024}}
    ask |= {"stop_sequences": [" "]}
    whole = theirs.messages.create(**ask)
    with theirs.messages.stream(**ask) as stream:
        final = stream.get_final_message()

    for message in (whole, final):
        blocks: list[Any] = [block for block in message.content if block.type == "thinking"]
        assert [block.thinking.startswith("I think") for block in blocks] == [True]


def test_the_split_in_the_extra_body(theirs: anthropic.Anthropic) -> None:
    for value, layers in ((2, "2"), ("full", "4")):
        raw = theirs.messages.with_raw_response.create(
            **SHORT, extra_body={"moe_cpu_layers": value}
        )
        assert raw.headers["X-Moe-Proxy-Moe-Cpu-Layers"] == layers
        assert text_of(raw.parse())
    with pytest.raises(anthropic.BadRequestError, match=r"moe_cpu_layers.*is not allowed"):
        theirs.messages.create(**SHORT, extra_body={"moe_cpu_layers": -2})


def test_errors(theirs: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="did you mean tiny:4l") as missing:
        theirs.messages.create(**SHORT | {"model": "tiny:4x"})
    long: Any = {"role": "user", "content": "word " * 2000}
    with pytest.raises(anthropic.BadRequestError, match="context size") as bad:
        theirs.messages.create(**SHORT | {"messages": [long]})
    with pytest.raises(anthropic.NotFoundError):
        list(theirs.messages.create(**SHORT | {"model": "tiny:4x"}, stream=True))

    assert missing.value.body == {
        "type": "error",
        "error": {"type": "not_found_error", "message": missing.value.body["error"]["message"]},  # type: ignore[index]
    }
    assert bad.value.status_code == 400
