"""What an engine is asked."""

from typing import Any

from proxy.catalog.entry import Message
from proxy.dialect.ollama import bodies
from proxy.dialect.ollama.options import DEFAULTS
from proxy.dialect.ollama.requests import ChatBody, ChatMessage, GenerateBody
from proxy.dialect.preamble import Preamble

USER = ChatMessage(role="user", content="hi")


def roles(messages: list[ChatMessage]) -> list[str]:
    return [message.role for message in messages]


def test_who_counts_most() -> None:
    made = bodies.sampling({"top_p": 0.5, "max_tokens": 9, "x": 1}, {"top_k": 1, "n_predict": 3})

    assert made == {**DEFAULTS, "top_p": 0.5, "x": 1, "top_k": 1, "n_predict": 3}
    assert bodies.sampling({"max_tokens": 9}, {})["max_tokens"] == 9


def test_a_chat() -> None:
    made = bodies.chat(ChatBody(), [USER], {"seed": 1, "tool_choice": "required"})

    assert made == {
        "seed": 1,
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_tools() -> None:
    tools = [{"type": "function"}]
    made = bodies.chat(ChatBody(), [USER], {"tool_choice": "required"}, tools=tools)

    assert made["tools"] == tools
    assert made["tool_choice"] == "required"


def test_thinking() -> None:
    def kwargs(think: Any, **params: Any) -> Any:
        return bodies.chat(ChatBody(think=think), [USER], params).get("chat_template_kwargs")

    assert kwargs(None) is None
    assert kwargs(True) == {"enable_thinking": True}
    assert kwargs(False) == {"enable_thinking": False}
    assert kwargs("low") == {"enable_thinking": True, "reasoning_effort": "low"}
    assert kwargs("max") == {"enable_thinking": True, "reasoning_effort": "high"}
    policy = {"enable_thinking": False, "tone": "dry"}
    assert kwargs(True, chat_template_kwargs=policy) == {"enable_thinking": True, "tone": "dry"}
    assert kwargs(None, chat_template_kwargs=policy) == policy


def test_who_can_think_is_asked_to_unless_somebody_says_not() -> None:
    def kwargs(think: Any = None, **params: Any) -> Any:
        made = bodies.chat(ChatBody(think=think), [USER], params, can_think=True)
        return made.get("chat_template_kwargs"), made.get("reasoning_effort")

    assert kwargs() == ({"enable_thinking": True}, None)
    assert kwargs(chat_template_kwargs={"enable_thinking": False}) == (
        {"enable_thinking": False},
        None,
    )
    assert kwargs(reasoning_effort="none") == (None, "none")
    # A request's word counts more than a policy's, by whatever name that says it.
    assert kwargs(True, reasoning_effort="none") == ({"enable_thinking": True}, None)
    assert kwargs(False, reasoning_effort="high") == ({"enable_thinking": False}, None)
    low = {"enable_thinking": True, "reasoning_effort": "low"}
    assert kwargs("low", reasoning_effort="high") == (low, None)
    assert kwargs(True, reasoning_effort="low") == (low, None)


def test_what_a_request_says_in_ollamas_words_counts_more_than_a_policy() -> None:
    params = {"grammar": "root ::= x", "logprobs": True, "top_logprobs": 5, "n_probs": 5}

    made = bodies.chat(ChatBody(format="json", logprobs=False), [USER], params)
    assert not {"grammar", "logprobs", "top_logprobs", "n_probs"} & set(made)
    plain = bodies.completion(GenerateBody(format="json", logprobs=False), "p", params)
    assert not {"grammar", "logprobs", "top_logprobs", "n_probs"} & set(plain)
    assert bodies.chat(ChatBody(), [USER], params)["grammar"] == "root ::= x"


def test_formats() -> None:
    schema = {"type": "boolean"}

    assert bodies.chat(ChatBody(format="json"), [USER], {})["response_format"] == {
        "type": "json_object"
    }
    assert bodies.chat(ChatBody(format=schema), [USER], {})["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "schema", "schema": schema},
    }
    plain = bodies.completion(GenerateBody(format="json"), "p", {})
    assert plain["json_schema"] == {"type": "object"}
    assert bodies.completion(GenerateBody(format=schema), "p", {})["json_schema"] == schema


def test_probabilities() -> None:
    some = bodies.chat(ChatBody(logprobs=True), [USER], {})
    more = bodies.completion(GenerateBody(logprobs=True, top_logprobs=4), "p", {})

    assert (some["logprobs"], some["top_logprobs"]) == (True, 1)
    assert more["n_probs"] == 4
    assert "n_probs" not in bodies.completion(GenerateBody(top_logprobs=4), "p", {})


def test_plain_prompts() -> None:
    params = {"seed": 1, "tool_choice": "required", "chat_template_kwargs": {}}

    assert bodies.completion(GenerateBody(), [1, 2], params) == {
        "seed": 1,
        "stream": True,
        "prompt": [1, 2],
    }
    assert bodies.infill(GenerateBody(prompt="a", suffix="b"), params) == {
        "seed": 1,
        "stream": True,
        "input_prefix": "a",
        "input_suffix": "b",
    }


def test_the_models_own_words_come_first() -> None:
    preamble = Preamble("s", (Message("assistant", "b"),))

    assert roles(bodies.chat_messages([USER], preamble)) == ["system", "assistant", "user"]
    own = [ChatMessage(role="System", content="mine"), USER]
    assert [m.content for m in bodies.chat_messages(own, preamble)] == ["mine", "b", "hi"]
    assert roles(bodies.generate_messages(GenerateBody(prompt="p"), Preamble())) == ["user"]
    said = bodies.generate_messages(GenerateBody(prompt="p", system="mine"), preamble)
    assert [m.content for m in said] == ["mine", "b", "p"]
    goes_on = bodies.generate_messages(GenerateBody(prompt="p", context=[1]), preamble)
    assert [m.content for m in goes_on] == ["s", "p"], "the others are in the context"


def test_the_oldest_go_first() -> None:
    system = ChatMessage(role="system", content="s")
    messages = [system, USER, ChatMessage(role="assistant"), USER]

    assert roles(bodies.drop_oldest(messages, 0)) == ["system", "user", "assistant", "user"]
    assert roles(bodies.drop_oldest(messages, 1)) == ["system", "user", "assistant", "user"]
    assert roles(bodies.drop_oldest(messages, 3)) == ["system", "user"]
