"""Whose saved slots are of use to whom."""

from dataclasses import replace
from pathlib import Path

import pytest

from proxy.catalog.gguf import Header
from proxy.catalog.gguf_reader import read_header
from proxy.engine.types import LoadOptions
from proxy.slots.transferable import (
    FEWEST_TOKENS,
    Slot,
    bytes_a_token,
    files_of,
    unused,
    why_not_kept,
    why_not_taken,
    why_not_this,
    worth_saving,
)
from tests.support.hybrid import hybrid_model
from tests.support.models import model

OPTIONS = LoadOptions("m", Path("m.gguf"), ctx=4096, parallel=2)
LONG = FEWEST_TOKENS


def header(shape: str = "qwen3moe") -> Header:
    return read_header(model(shape, layers=2))


def named(architecture: str) -> Header:
    """A header of an architecture, with nothing else changed."""
    known = header()
    return replace(known, metadata={**known.metadata, "general.architecture": architecture})


def slot(
    number: int = 0, tokens: int | None = LONG, task: int | None = 7, *, busy: bool = False
) -> Slot:
    return Slot(number, busy, speculative=False, task=task, tokens=tokens)


# --- of a model at all ---


@pytest.mark.parametrize("shape", ["qwen3moe", "qwen3", "mixtral", "deepseek2", "glm4moe"])
def test_models_that_see_all_tokens_can_be_carried(shape: str) -> None:
    assert why_not_kept(OPTIONS, header(shape)) is None


def test_a_hybrid_can_be_carried() -> None:
    assert why_not_kept(OPTIONS, read_header(hybrid_model())) is None


def test_a_sliding_window_cannot_but_for_a_full_cache() -> None:
    assert "sliding window" in str(why_not_kept(OPTIONS, header("gpt-oss")))
    assert why_not_kept(replace(OPTIONS, args=("--swa_full",)), header("gpt-oss")) is None


@pytest.mark.parametrize("architecture", ["deepseek4", "bert", "llada"])
def test_a_memory_that_is_not_known_is_left_alone(architecture: str) -> None:
    assert architecture in str(why_not_kept(OPTIONS, named(architecture)))


@pytest.mark.parametrize(
    "changed",
    [
        {"engine": "command"},
        {"mode": "embedding"},
        {"args": ("--slot-save-path", "/tmp")},
        {"args": ("--slot_save_path=/tmp",)},
        {"args": ("--lora", "a.gguf")},
        {"adapters": (Path("a.gguf"),)},
    ],
    ids=str,
)
def test_what_else_rules_it_out(changed: dict[str, object]) -> None:
    assert why_not_kept(replace(OPTIONS, **changed), header()) is not None  # type: ignore[arg-type]


# --- from one into another ---


@pytest.mark.parametrize(
    "changed",
    [
        {"ctx": 8192},
        {"ctx": 512},
        {"split": 3},
        {"ubatch": 64},
        {"threads": 2},
        {"repack": "off"},
        {"rpc": ("127.0.0.1:1",)},
        {"no_attention": ("RPC0",)},
        {"template": Path("t.jinja")},
    ],
    ids=str,
)
def test_what_changes_nothing_in_a_slot(changed: dict[str, object]) -> None:
    assert why_not_taken(OPTIONS, replace(OPTIONS, **changed), header()) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"args": ("--cache-type-k", "q8_0")}, "args"),
        ({"args": ("--rope-freq-base", "1000")}, "args"),
        ({"libdir": Path("/other")}, "llama.cpp"),
        ({"backends": (Path("/other.so"),)}, "llama.cpp"),
        ({"parallel": 4}, "parallel"),
    ],
    ids=str,
)
def test_what_makes_other_slots(changed: dict[str, object], why: str) -> None:
    new = replace(OPTIONS, **changed)  # type: ignore[arg-type]

    assert why in str(why_not_taken(OPTIONS, new, header()))


def test_a_unified_cache_may_have_another_number_of_slots() -> None:
    old = replace(OPTIONS, args=("-kvu",))

    assert why_not_taken(old, replace(old, parallel=4), header()) is None


def test_keys_that_are_turned_by_the_context_need_the_same_one() -> None:
    known = header()
    tensor = replace(known.tensors[0], name="rope_factors_long.weight")
    long_rope = replace(known, tensors=(*known.tensors, tensor))

    assert why_not_taken(OPTIONS, replace(OPTIONS, split=1), long_rope) is None
    assert "ctx" in str(why_not_taken(OPTIONS, replace(OPTIONS, ctx=8192), long_rope))


def test_a_projector_is_one_of_the_files_that_count() -> None:
    parts = (Path("a-00001-of-00002.gguf"), Path("a-00002-of-00002.gguf"))
    eye = Path("mmproj.gguf")

    assert files_of(parts, OPTIONS) == parts
    assert files_of(parts, replace(OPTIONS, projector=eye)) == (*parts, eye)


# --- which of its slots ---


def worth(*slots: Slot, last: bool = False, **known: object) -> list[int]:
    given = {"done": {}, "filled": set(), **known}
    return [found.id for found in worth_saving(slots, last=last, **given)]  # type: ignore[arg-type]


def test_the_last_used_comes_first_and_short_ones_are_left() -> None:
    slots = (slot(0, task=3), slot(1, task=9), slot(2, LONG - 1, task=8), slot(3, None, None))

    assert worth(*slots) == [1, 0]


def test_a_busy_one_is_saved_when_nobody_reads_its_answer() -> None:
    assert worth(slot(busy=True)) == []
    assert worth(slot(busy=True), last=True) == [0]


def test_a_slot_is_dealt_with_once_unless_it_went_on() -> None:
    assert worth(slot(task=7), done={0: 7}) == []
    assert worth(slot(task=8), done={0: 7}) == [0]


def test_one_that_was_restored_and_not_used_is_not_forgotten() -> None:
    assert worth(slot(0, None, None), slot(1, None, None), filled={1}) == [1]


def test_places_are_those_that_nobody_has_used() -> None:
    slots = [slot(3, None, None), slot(1, None, None), slot(0), slot(2, None, None)]

    assert unused(slots, {1}) == [2, 3]


def test_single_slots_may_be_left() -> None:
    draft = Slot(0, busy=False, speculative=True, task=1, tokens=LONG)

    assert why_not_this(slot(), OPTIONS, 0) is None
    assert "draft" in str(why_not_this(draft, OPTIONS, 0))
    assert "ctx of 512" in str(why_not_this(slot(tokens=512), replace(OPTIONS, ctx=512), 0))
    assert why_not_this(slot(), OPTIONS, None) is not None


def test_a_size_is_told_by_the_header() -> None:
    """Two layers, two heads of 32 for keys and as many for values, two bytes each."""
    assert bytes_a_token(header()) == 2 * (2 * 32 + 2 * 32) * 2
