"""A model that thinks, in a conversation that goes on by its `context`."""

import ollama
import pytest

pytestmark = pytest.mark.llama


def test_thoughts_are_told_apart_in_an_answer_to_a_context(llama: ollama.Client) -> None:
    first = llama.generate("thinker", "hello")
    second = llama.generate("thinker", "more", context=first.context)
    pieces = list(llama.generate("thinker", "more", context=first.context, stream=True))

    for answer in (first, second):
        assert (answer.thinking or "").strip() == "I think"
        assert (answer.response or "").strip() == "Rome"
    assert "".join(piece.thinking or "" for piece in pieces) == second.thinking
    assert "".join(piece.response or "" for piece in pieces) == second.response
    assert pieces[-1].context == second.context


def test_thoughts_are_no_part_of_the_context(llama: ollama.Client) -> None:
    first = llama.generate("thinker", "hello")
    second = llama.generate("thinker", "more", context=first.context)

    for answer in (first, second):
        assert answer.context is not None
        assert answer.prompt_eval_count is not None
        assert answer.eval_count is not None
        answered = len(answer.context) - answer.prompt_eval_count
        assert 0 < answered < answer.eval_count / 2
    assert second.context is not None
    assert first.context is not None
    assert second.context[: len(first.context)] == first.context
