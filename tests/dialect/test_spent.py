"""Tokens of an answer, by its end, as engines write it."""

import pytest

from proxy.dialect.spent import LAST_BYTES, Spent, Tail, prompt_length

TIMINGS = (
    b'"timings":{"cache_n":7,"prompt_n":3,"prompt_ms":1.5,"predicted_n":20,"predicted_ms":9.0}'
)


@pytest.mark.parametrize(
    ("answer", "spent"),
    [
        (b'{"content":"x",' + TIMINGS + b"}", Spent(10, 7, 20)),
        (b'data: {"choices":[],' + TIMINGS + b"}\n\ndata: [DONE]\n\n", Spent(10, 7, 20)),
        (b'{"usage": {"prompt_tokens": 4, "completion_tokens": 2}}', Spent(4, None, 2)),
        (b'{"usage":{"input_tokens":4,"output_tokens":2}}', Spent(4, None, 2)),
        (b'{"usage":{"prompt_tokens":4,"total_tokens":4}}', Spent(4, None, None)),
        (b'{"usage":{"prompt_tokens":' + b"9" * 5000 + b"}}", Spent()),
        (b'{"usage":{"prompt_tokens":4,"total_tokens":4},"data":[' + b"0" * 5000, Spent(4)),
        (b"", Spent()),
    ],
)
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_what_an_end_says(answer: bytes, spent: Spent, step: int) -> None:
    tail = Tail()
    for start in range(0, len(answer), step):
        tail.feed(answer[start : start + step])

    assert tail.spent() == spent


def test_what_stands_far_before_the_end_is_the_models_own_words() -> None:
    tail = Tail()
    tail.feed(TIMINGS + b" " * LAST_BYTES)

    assert tail.spent() == Spent()


@pytest.mark.parametrize(
    ("data", "length"),
    [
        (b'data: {"choices":[],"prompt_progress":{"total":812,"cache":0,"processed":64}}', 812),
        (b'{"prompt_progress": { "total": 7 }}', 7),
        (b'{"content":"\\"prompt_progress\\":{\\"total\\":9}"}', None),
        (b'{"prompt_progress":{"total":' + b"9" * 20 + b"}}", None),
        (b'{"prompt_progress":{"total":', None),
        (b"", None),
    ],
)
def test_how_long_a_prompt_is_that_is_read(data: bytes, length: int | None) -> None:
    assert prompt_length(data) == length
