"""Tools and thinking through real chat templates.

Random weights say nothing of the kind by themselves: an answer that has begun already, and a
grammar for its rest, make them.
"""

from typing import Any

import ollama
import pytest

from tests.api.ollama.conftest import TEMPLATES

pytestmark = pytest.mark.llama
SHORT = {"num_predict": 60}
QUESTION = {"role": "user", "content": "what is the weather in Rome?"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Rome", "Oslo"]}},
            "required": ["city"],
        },
    },
}
HARMONY = (
    "I ask.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather "
    '<|constrain|>json<|message|>{"city": "'
)
# How the answer has begun: as each template writes a call.
BEGUN: dict[str, dict[str, str]] = {
    "qwen3": {"content": '<tool_call>\n{"name": "get_weather", "arguments": {"city": "'},
    "gpt-oss": {"content": "", "thinking": HARMONY},
    "llama3.1": {"content": '{"name": "get_weather", "parameters": {"city": "'},
    "mistral": {"content": '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "'},
}
THINKING = ("qwen3", "gpt-oss")


def conversation(name: str) -> list[dict[str, Any]]:
    return [QUESTION, {"role": "assistant", **BEGUN[name]}]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_tool_is_called(client: ollama.Client, name: str) -> None:
    answer = client.chat(f"{name}-forced", conversation(name), tools=[WEATHER], options=SHORT)

    calls = answer.message.tool_calls
    assert calls is not None
    assert [call.function.name for call in calls] == ["get_weather"]
    assert calls[0].function.arguments["city"] in ("Rome", "Oslo")
    assert not answer.message.content
    if name != "mistral":  # whose grammar leaves room for spaces without end after the call
        assert answer.done_reason == "stop"
    if name == "gpt-oss":
        assert answer.message.thinking == "I ask."


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_streamed_call_comes_whole_and_before_the_end(client: ollama.Client, name: str) -> None:
    whole = client.chat(f"{name}-forced", conversation(name), tools=[WEATHER], options=SHORT)

    pieces = list(
        client.chat(
            f"{name}-forced", conversation(name), tools=[WEATHER], options=SHORT, stream=True
        )
    )

    calling = [piece for piece in pieces if piece.message.tool_calls]
    assert len(calling) == 1
    assert not calling[0].done
    assert calling[0].message.tool_calls is not None
    assert whole.message.tool_calls is not None
    assert calling[0].message.tool_calls[0].function == whole.message.tool_calls[0].function
    assert pieces[-1].done
    assert pieces[-1].done_reason == whole.done_reason


@pytest.mark.parametrize("name", TEMPLATES)
def test_results_go_back(client: ollama.Client, name: str) -> None:
    """With the id of the call, and as older clients do with the tool's name alone."""
    asked = client.chat(f"{name}-forced", conversation(name), tools=[WEATHER], options=SHORT)
    assert asked.message.tool_calls
    call_id = asked.message.tool_calls[0].model_dump().get("id")
    results: list[dict[str, Any]] = [
        {"role": "tool", "content": "sunny", "tool_name": "get_weather"},
        {"role": "tool", "content": "sunny", "tool_call_id": call_id},
    ]
    # What is said then has to be begun, too: gpt-oss' grammar refuses random words.
    final = {"role": "assistant", "content": "It is"}

    counts = []
    for result in results:
        messages: list[Any] = [QUESTION, asked.message, result, final]
        answer = client.chat(name, messages, options={"num_predict": 4})
        counts.append(answer.prompt_eval_count or 0)
        assert (answer.message.content or "").startswith("It is")
    without = client.chat(name, [QUESTION, final], options={"num_predict": 4}).prompt_eval_count
    assert counts[0] == counts[1] > (without or 0) + 10, "both are the same to the template"


@pytest.mark.parametrize("name", THINKING)
def test_thinking_is_told_apart(client: ollama.Client, name: str) -> None:
    begun = {"role": "assistant", "content": "", "thinking": "I think"}
    if name == "gpt-oss":
        done = "I think<|end|><|start|>assistant<|channel|>final<|message|>Rome"
    else:
        done = "I think\n</think>\n\nRome"
    finished = {"role": "assistant", "content": "", "thinking": done}

    open_end = client.chat(name, [QUESTION, begun], think=True, options={"num_predict": 4})
    closed = client.chat(name, [QUESTION, finished], think=True, options={"num_predict": 4})
    pieces = list(
        client.chat(name, [QUESTION, finished], think=True, options={"num_predict": 4}, stream=True)
    )

    assert (open_end.message.thinking or "").startswith("I think")
    assert not open_end.message.content
    assert (closed.message.thinking or "").strip() == "I think"
    assert (closed.message.content or "").strip().startswith("Rome")
    assert "".join(p.message.thinking or "" for p in pieces) == closed.message.thinking
    assert "".join(p.message.content or "" for p in pieces) == closed.message.content


def test_thinking_can_be_switched_off(client: ollama.Client) -> None:
    on = client.chat("qwen3", [QUESTION], think=True, options={"num_predict": 1})
    default = client.chat("qwen3", [QUESTION], options={"num_predict": 1})
    off = client.chat("qwen3", [QUESTION], think=False, options={"num_predict": 1})

    # The template then writes an empty thought itself.
    assert (on.prompt_eval_count or 0) == (default.prompt_eval_count or 0)
    assert (off.prompt_eval_count or 0) > (on.prompt_eval_count or 0)


def test_levels_of_thinking_reach_the_template(client: ollama.Client) -> None:
    begun = {"role": "assistant", "content": "", "thinking": "I think"}
    texts = set()
    levels: list[Any] = ["low", "medium", "high", "max"]  # the last is newer than the client
    for level in levels:
        answer = client.chat(
            "gpt-oss",
            [QUESTION, begun],
            think=level,
            options={"num_predict": 8},
        )
        texts.add(answer.message.thinking)
    # "max" is "high" to this family, the others are prompts of their own.
    assert len(texts) == 3


@pytest.mark.parametrize("name", ["llama3.1", "mistral", "tiny:4l"])
def test_a_model_that_does_not_think(client: ollama.Client, name: str) -> None:
    with pytest.raises(ollama.ResponseError, match="does not support thinking") as error:
        client.chat(name, [QUESTION], think=True)
    assert error.value.status_code == 400
    assert client.chat(name, [QUESTION], think=False, options={"num_predict": 1}).done


def test_a_model_without_tools(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="does not support tools") as error:
        client.chat("tiny:4l", [QUESTION], tools=[WEATHER])
    assert error.value.status_code == 400


def test_a_failure_in_the_middle_is_a_line(client: ollama.Client) -> None:
    """Random words do not follow this template's grammar, which shows after some of them."""
    begun = {"role": "assistant", "content": "It is"}
    stream = client.chat(
        "qwen3", [QUESTION, begun], tools=[WEATHER], options={"num_predict": 4}, stream=True
    )
    assert list(stream)
    broken = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    with pytest.raises(ollama.ResponseError, match="does not match"):
        list(
            client.chat(
                "qwen3",
                [QUESTION, {"role": "assistant", "content": broken}],
                tools=[WEATHER],
                options={"num_predict": 12},
                stream=True,
            )
        )
