"""Numbers that no model has are told, before anybody counts with them."""

from pathlib import Path

import pytest

from proxy.catalog.gguf import BadNumbers, Value
from proxy.catalog.gguf_bounds import problem_of
from proxy.catalog.gguf_reader import read_beginning, read_header
from tests.catalog.test_gguf_reader import key_values, number, text
from tests.support.models import MOE_SHAPES, model

ARCHITECTURE = {"general.architecture": "qwen3moe"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("block_count", 2**31),
        ("block_count", 513),
        ("block_count", -1),
        ("block_count", 48.0),
        ("block_count", "48"),
        ("block_count", True),
        ("embedding_length", 2**40),
        ("attention.head_count", (8, -8)),
        ("attention.head_count_kv", (8, 2**63)),
        ("attention.head_count_kv", ("a", "b")),
        ("expert_count", 2**31),
        ("expert_used_count", 2**20),
        ("context_length", 2**63),
        ("attention.sliding_window", -2),
        ("ssm.inner_size", float("nan")),
    ],
)
def test_a_number_that_no_model_has_is_named(name: str, value: Value) -> None:
    problem = problem_of(ARCHITECTURE | {f"qwen3moe.{name}": value}, {})

    assert problem is not None
    assert problem.startswith(f"qwen3moe.{name} is ")


def test_a_part_is_not_more_than_the_whole() -> None:
    some = ARCHITECTURE | {"qwen3moe.expert_used_count": 8, "qwen3moe.expert_count": 4}

    assert problem_of(some, {}) == (
        "qwen3moe.expert_used_count is 8, and qwen3moe.expert_count only 4"
    )


def test_a_list_is_not_longer_than_a_model_has_layers() -> None:
    problem = problem_of(ARCHITECTURE, {"qwen3moe.attention.head_count": 100_000})

    assert problem is not None
    assert "a list of 100000" in problem


def test_an_architecture_is_a_name() -> None:
    assert problem_of({"general.architecture": 5}, {}) is not None


@pytest.mark.parametrize("shape", MOE_SHAPES)
def test_models_have_nothing_of_it(shape: str) -> None:
    header = read_header(model(shape, layers=2))

    assert problem_of(header.metadata, header.array_lengths) is None


def test_a_tiny_file_that_claims_to_be_huge_is_not_usable(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(
        key_values(
            text(b"general.architecture") + b"\x08\0\0\0" + text(b"qwen3moe"),
            number("qwen3moe.block_count", 2**31),
        )
    )

    for read in (read_header, read_beginning):
        with pytest.raises(BadNumbers, match=r"qwen3moe\.block_count is 2147483648"):
            read(path)
