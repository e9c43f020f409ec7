"""Thoughts in the text of plain completions, however it comes in pieces."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialect.ollama.events import Finish, Logprob, Text, TokenLogprob
from proxy.dialect.ollama.reading import read_completion
from proxy.dialect.ollama.reasoning import FAMILIES, NO_MARKS, Marks, marks_of, telling_apart
from tests.support import archive

HARMONY, MISTRAL, TAGS = FAMILIES


def told(marks: Marks, *pieces: str, thinks: bool = False) -> tuple[str, str]:
    """Thoughts and answer, as they come out in the end."""
    read = telling_apart(read_completion, marks, thinks=thinks)
    messages = [json.dumps({"content": piece}) for piece in pieces]
    messages.append(json.dumps({"content": "", "stop": True, "stop_type": "eos"}))
    events = [event for message in messages for event in read(message.encode())]
    assert isinstance(events[-1], Finish)
    texts = [event for event in events if isinstance(event, Text)]
    return "".join(t.thinking for t in texts), "".join(t.content for t in texts)


@pytest.mark.parametrize(
    ("marks", "thinks", "text", "expected"),
    [
        (TAGS, False, "<think>\nI see\n</think>\n\nRome", ("I see", "Rome")),
        (TAGS, True, "\nI see\n</think>\n\nRome\n", ("I see", "Rome\n")),
        (TAGS, False, "\n\nRome", ("", "Rome")),
        (TAGS, False, "a <b> <think> c", ("", "a <b> <think> c")),
        (TAGS, False, "<think>x</think>y <think>z", ("x", "y <think>z")),
        (TAGS, False, "<think>I <th", ("I <th", "")),
        (TAGS, False, "<think></think>x", ("", "x")),
        (TAGS, False, "", ("", "")),
        (MISTRAL, False, "[THINK]x[/THINK]y", ("x", "y")),
        (
            HARMONY,
            False,
            "<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>final<|message|>y",
            ("x", "y"),
        ),
        (HARMONY, False, "<|channel|>final<|message|>y", ("", "y")),
        (NO_MARKS, False, "<think>x</think>", ("", "<think>x</think>")),
    ],
)
def test_thoughts_and_answer(
    marks: Marks, thinks: bool, text: str, expected: tuple[str, str]
) -> None:
    assert told(marks, text, thinks=thinks) == expected
    assert told(marks, *text, thinks=thinks) == expected


@given(st.text("<>/think \nx", max_size=30), st.lists(st.integers(0, 30), max_size=4))
def test_the_pieces_make_no_difference(text: str, cuts: list[int]) -> None:
    edges = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    pieces = [text[start:end] for start, end in pairwise(edges)]

    assert told(TAGS, *pieces) == told(TAGS, text)


def test_probabilities_are_not_lost() -> None:
    token = TokenLogprob("<", -1.0)
    read = telling_apart(read_completion, TAGS, thinks=False)
    message = {"content": "<", "completion_probabilities": [{"token": "<", "logprob": -1.0}]}

    assert read(json.dumps(message).encode()) == [Text("", "", (Logprob(token, ()),))]


@pytest.mark.parametrize(
    ("name", "marks"),
    [
        ("openai-gpt-oss-120b", HARMONY),
        ("Qwen-Qwen3-0.6B", TAGS),
        ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", TAGS),
        ("mistralai-Ministral-3-14B-Reasoning-2512", MISTRAL),
        ("mistralai-Mistral-Nemo-Instruct-2407", NO_MARKS),
    ],
)
def test_families_of_real_templates(name: str, marks: Marks) -> None:
    assert marks_of(archive.template(name)) == marks


def test_a_template_that_has_begun_the_thoughts() -> None:
    assert TAGS.open_at_end("<assistant>\n<think>\n")
    assert TAGS.closing("<assistant>\n<think>\n") == "</think>\n\n"
    assert not TAGS.open_at_end("<assistant>\n<think>\n\n</think>\n\n")
    assert TAGS.closing("<assistant>\n") == ""
    assert not NO_MARKS.open_at_end("x")
