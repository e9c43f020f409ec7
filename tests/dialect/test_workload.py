"""How much work a body says that it makes."""

from typing import Any

import msgspec
import pytest

from proxy.dialect.body import Body
from proxy.dialect.workload import MOST_NAME, Workload, workload_of


def of(fields: dict[str, Any], *, generates: bool = True) -> Workload:
    return workload_of(Body(msgspec.json.encode(fields)), generates=generates)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Workload()),
        ({"stream": True, "max_tokens": 5}, Workload(streams=True, tokens=5)),
        ({"max_completion_tokens": 7, "max_tokens": 9}, Workload(tokens=7)),
        ({"max_output_tokens": 7}, Workload(tokens=7)),
        ({"n_predict": -1}, Workload()),
        ({"n": 3}, Workload(slots=3)),
        ({"prompt": "one"}, Workload()),
        ({"prompt": ["one", "two"]}, Workload(slots=2)),
        ({"prompt": [1, 2, 3]}, Workload()),
        ({"prompt": [[1, 2], [3]], "n": 4}, Workload(slots=4)),
        ({"prompt": []}, Workload()),
        ({"input": [{"role": "user", "content": "a"}] * 9}, Workload()),
        ({"user": "anna"}, Workload(user="anna")),
    ],
)
def test_what_it_says(fields: dict[str, Any], expected: Workload) -> None:
    assert of(fields) == expected


@pytest.mark.parametrize(
    ("fields", "slots"),
    [
        ({"input": "one"}, 1),
        ({"input": ["one", "two", "three"]}, 3),
        ({"input": [[1, 2], [3]]}, 2),
        ({"query": "q", "documents": ["a", {"text": "b"}]}, 2),
        ({"query": "q", "documents": [{"text": "b"}, {"text": "c"}]}, 2),
    ],
)
def test_each_input_that_is_embedded_takes_a_slot(fields: dict[str, Any], slots: int) -> None:
    assert of(fields, generates=False) == Workload(slots=slots, tokens=1)


@pytest.mark.parametrize(
    "fields",
    [
        {"stream": "yes", "n": "many", "max_tokens": True, "user": 5},
        {"stream": None, "n": None, "max_tokens": None, "user": None, "prompt": None},
        {"stream": [True], "n": {"a": 1}, "max_tokens": 1.5, "user": ""},
        {"n": -2, "max_tokens": 0, "user": {"name": "x" * 10_000}},
    ],
)
def test_what_makes_no_sense_is_not_minded(fields: dict[str, Any]) -> None:
    assert of(fields) == Workload()


def test_a_long_name_is_cut() -> None:
    assert len(of({"user": "x" * (MOST_NAME + 9)}).user or "") == MOST_NAME
