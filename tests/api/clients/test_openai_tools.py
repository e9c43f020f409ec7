"""`openai`: tools. Where the request wants a call, random weights make one, whatever their template
would let them say; where the model may choose, the call has begun already."""

import json
from typing import Any

import openai
import pytest

from tests.api.clients.conftest import CALLERS, TINY, USER

pytestmark = pytest.mark.llama


def tool(name: str) -> Any:
    city = {"type": "string", "enum": ["Rome", "Oslo"]}
    schema = {"type": "object", "properties": {"city": city}, "required": ["city"]}
    return {
        "type": "function",
        "function": {"name": name, "description": "of a city", "parameters": schema},
    }


ASK: Any = {
    "model": "qwen3",
    "messages": [USER],
    "max_tokens": 300,
    "tools": [tool("get_weather"), tool("get_time")],
}
BEGUN = '<tool_call>\n{"name": "'
UNTHINKING: Any = {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}
FIRST = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>\n'


def begun(answer: str = BEGUN) -> Any:
    return [USER, {"role": "assistant", "content": answer}]


REQUIRED = ASK | {"tool_choice": "required"}


def check(choice: Any) -> None:
    assert choice.finish_reason == "tool_calls"
    assert not choice.message.content
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert call.id
    assert call.function.name in ("get_weather", "get_time")
    assert json.loads(call.function.arguments)["city"] in ("Rome", "Oslo")


@pytest.mark.parametrize("name", [*CALLERS, "thoughtful"])
def test_required(mine: openai.OpenAI, name: str) -> None:
    """Of templates that llama-server would let begin with prose, or with thoughts for ever."""
    check(mine.chat.completions.create(**REQUIRED | {"model": name}).choices[0])


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "get_time"}])
def test_required_of_a_response(mine: openai.OpenAI, choice: Any) -> None:
    flat: Any = [{"type": "function", **each["function"]} for each in ASK["tools"]]
    ask: Any = {"model": "qwen3", "input": "hello", "tools": flat, "max_output_tokens": 300}
    whole = mine.responses.create(**ask, tool_choice=choice)
    with mine.responses.stream(**ask, tool_choice=choice) as stream:
        final = stream.get_final_response()

    for response in (whole, final):
        output: Any = response.output
        (call,) = [item for item in output if item.type == "function_call"]
        assert call.name in ("get_time", "get_weather" if choice == "required" else "get_time")
        assert json.loads(call.arguments)["city"] in ("Rome", "Oslo")


def test_required_of_several(mine: openai.OpenAI) -> None:
    for choice in mine.chat.completions.create(**REQUIRED, n=2).choices:
        check(choice)


def test_what_it_refers_to_in_its_schema(mine: openai.OpenAI) -> None:
    """As pydantic writes the parameters of a tool."""
    referring = tool("get_weather")
    city = referring["function"]["parameters"]["properties"]["city"]
    referring["function"]["parameters"] |= {
        "properties": {"city": {"$ref": "#/$defs/City"}},
        "$defs": {"City": city},
    }
    check(
        mine.chat.completions.create(**REQUIRED | {"tools": [referring, tool("get_time")]}).choices[
            0
        ]
    )


def test_streamed_pieces_make_the_same_call(mine: openai.OpenAI) -> None:
    whole = mine.chat.completions.create(**REQUIRED).choices[0].message.tool_calls
    chunks = [c for c in mine.chat.completions.create(**REQUIRED, stream=True) if c.choices]

    pieces = [piece for c in chunks for piece in c.choices[0].delta.tool_calls or ()]
    assert whole is not None
    assert whole[0].type == "function"
    assert pieces[0].function is not None
    assert pieces[0].function.name == whole[0].function.name
    arguments = "".join(piece.function.arguments or "" for piece in pieces if piece.function)
    assert arguments == whole[0].function.arguments
    assert len(pieces) > 2, "it comes piece by piece"
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("name", ["get_weather", "get_time"])
def test_a_named_tool(mine: openai.OpenAI, name: str) -> None:
    choice: Any = {"type": "function", "function": {"name": name}}
    answer = mine.chat.completions.create(**REQUIRED | {"tool_choice": choice})

    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].type == "function"
    assert calls[0].function.name == name


def test_a_named_tool_that_is_not_there(mine: openai.OpenAI) -> None:
    choice: Any = {"type": "function", "function": {"name": "get_lost"}}
    with pytest.raises(openai.BadRequestError, match="'get_lost' is not among") as error:
        mine.chat.completions.create(**ASK, tool_choice=choice)
    assert error.value.param == "tool_choice"


def test_the_model_may_choose(mine: openai.OpenAI) -> None:
    called = begun(BEGUN + 'get_time", "arguments": {"city": "')
    calling = mine.chat.completions.create(
        **ASK | {"messages": called, "tool_choice": "auto", "parallel_tool_calls": False},
        **UNTHINKING,
    )
    talking = mine.chat.completions.create(**ASK | {"tool_choice": "auto", "max_tokens": 4})

    calls = calling.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].type == "function"
    assert calls[0].function.name == "get_time"
    assert not talking.choices[0].message.tool_calls
    assert talking.choices[0].message.content


def test_none_makes_text_of_a_call(mine: openai.OpenAI) -> None:
    answer = mine.chat.completions.create(
        **ASK | {"messages": begun(), "tool_choice": "none", "max_tokens": 4}, **UNTHINKING
    )

    assert not answer.choices[0].message.tool_calls
    assert (answer.choices[0].message.content or "").startswith("<tool_call>")


def test_parallel_calls(mine: openai.OpenAI) -> None:
    """Two calls, of which the first has been made already: what has begun goes on as it began."""
    answer = mine.chat.completions.create(
        **REQUIRED | {"messages": begun(FIRST + BEGUN), "parallel_tool_calls": True}, **UNTHINKING
    )

    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert len(calls) == len({call.id for call in calls}) == 2
    assert calls[0].type == "function"
    assert calls[0].function.name == "get_weather"


def test_required_calls_may_be_several(mine: openai.OpenAI) -> None:
    choice = mine.chat.completions.create(**REQUIRED, parallel_tool_calls=True).choices[0]

    assert choice.message.tool_calls
    for call in choice.message.tool_calls:
        assert call.type == "function"
        assert call.function.name in ("get_weather", "get_time")


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_template_without_tools(mine: openai.OpenAI, choice: Any) -> None:
    """The model would not hear of them."""
    ask: Any = ASK | {"model": TINY, "tool_choice": choice}
    with pytest.raises(openai.BadRequestError, match="tiny:4l does not support tools") as refused:
        mine.chat.completions.create(**ask)
    assert refused.value.param == "tools"
    flat: Any = [{"type": "function", **each["function"]} for each in ask["tools"]]
    with pytest.raises(openai.BadRequestError, match="tiny:4l does not support tools"):
        mine.responses.create(model=TINY, input="hello", tools=flat, tool_choice=choice)
    assert mine.chat.completions.create(**ask | {"tools": [], "tool_choice": "none"}).choices


def test_results_go_back(mine: openai.OpenAI) -> None:
    asking = mine.chat.completions.create(**REQUIRED).choices[0].message
    assert asking.tool_calls
    result: Any = {"role": "tool", "tool_call_id": asking.tool_calls[0].id, "content": "sunny"}
    done: Any = {"role": "assistant", "content": "It is"}

    with_result = mine.chat.completions.create(
        model="qwen3", messages=[USER, asking, result, done], max_tokens=4
    )
    without = mine.chat.completions.create(model="qwen3", messages=[USER, done], max_tokens=4)

    assert (with_result.choices[0].message.content or "").startswith("It is")
    assert with_result.usage is not None
    assert without.usage is not None
    assert with_result.usage.prompt_tokens > without.usage.prompt_tokens + 10
