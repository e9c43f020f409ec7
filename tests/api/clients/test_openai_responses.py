"""`openai`: responses by its helpers, which put events together and read objects out of texts."""

from typing import Any, Literal

import openai
import pydantic
import pytest

from tests.api.clients.conftest import TINY, USER

pytestmark = pytest.mark.llama
ASK: Any = {"model": TINY, "input": "hello", "max_output_tokens": 6}
ROOMY: Any = {"model": TINY, "input": "hello", "max_output_tokens": 200}
CITIES = ("Rome", "Oslo")
QUIET: Any = {"chat_template_kwargs": {"enable_thinking": False}}


class Trip(pydantic.BaseModel):
    """Where to go."""

    city: Literal["Rome", "Oslo"]
    by_train: bool


class GetWeather(pydantic.BaseModel):
    """The weather of a city."""

    city: Literal["Rome", "Oslo"]


CALL: Any = {
    "model": "qwen3",
    "input": "hello",
    "max_output_tokens": 200,
    "tools": [openai.pydantic_function_tool(GetWeather)["function"] | {"type": "function"}],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "extra_body": QUIET,
}


def test_the_stream_helper(mine: openai.OpenAI) -> None:
    with mine.responses.stream(**ASK) as stream:
        events = list(stream)
        final = stream.get_final_response()

    assert [event.sequence_number for event in events] == list(range(len(events)))
    snapshots = [event.snapshot for event in events if event.type == "response.output_text.delta"]
    assert snapshots[-1] == final.output_text
    assert final.usage is not None
    assert final.usage.output_tokens == 6
    created = events[0]
    assert created.type == "response.created"
    assert (created.response.model, created.response.output) == (TINY, [])
    assert created.response.id == final.id


async def test_the_stream_helper_async(mine_async: openai.AsyncOpenAI) -> None:
    async with mine_async.responses.stream(**ASK) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()

    assert kinds[-1] == "response.completed"
    assert final.output_text


def test_parse(mine: openai.OpenAI) -> None:
    whole = mine.responses.parse(**ROOMY, text_format=Trip)
    with mine.responses.stream(**ROOMY, text_format=Trip) as stream:
        for _ in stream:
            pass
        streamed = stream.get_final_response()

    assert whole.output_parsed is not None
    assert whole.output_parsed == streamed.output_parsed
    assert whole.output_parsed.city in CITIES


def test_a_tool_is_called_and_answered(mine: openai.OpenAI) -> None:
    with mine.responses.stream(**CALL) as stream:
        deltas = [e for e in stream if e.type == "response.function_call_arguments.delta"]
        final = stream.get_final_response()

    (call,) = [item for item in final.output if item.type == "function_call"]
    assert deltas[-1].snapshot == call.arguments
    assert GetWeather.model_validate_json(call.arguments).city in CITIES
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    ask: Any = {"model": "qwen3", "max_output_tokens": 4, "tools": CALL["tools"]}
    goes_on = mine.responses.create(
        **ask, input=[result], previous_response_id=final.id, extra_body=QUIET
    )
    items: Any = final.output
    spelled = mine.responses.create(
        **ask, input=[USER | {"content": "hello"}, *items, result], extra_body=QUIET
    )
    assert goes_on.usage is not None
    assert spelled.usage is not None
    assert goes_on.usage.input_tokens == spelled.usage.input_tokens
    assert goes_on.output_text == spelled.output_text


def test_thoughts_are_streamed_and_sent_back(mine: openai.OpenAI) -> None:
    ask: Any = {"model": "thinker", "max_output_tokens": 60}
    with mine.responses.stream(**ask, input="hello") as stream:
        thought = "".join(e.delta for e in stream if e.type == "response.reasoning_text.delta")
        final = stream.get_final_response()
    items: Any = final.output
    again = mine.responses.create(**ask, input=[USER, *items, USER], store=False)

    assert thought.strip() == "I think"
    assert final.output_text == again.output_text == "Rome"
    assert [item.type for item in final.output] == ["reasoning", "message"]


def test_what_is_kept(mine: openai.OpenAI) -> None:
    made = mine.responses.create(**ASK)

    assert mine.responses.retrieve(made.id).output == made.output
    mine.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        mine.responses.retrieve(made.id)
    with pytest.raises(openai.BadRequestError) as error:
        mine.responses.create(**ASK, previous_response_id=made.id)
    assert error.value.code == "previous_response_not_found"


def test_a_prompt_that_is_too_long(mine: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="maximum context length") as error:
        mine.responses.create(**ASK | {"input": "word " * 2000})
    assert error.value.code == "context_length_exceeded"
