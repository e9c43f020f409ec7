"""Which tensors move, and that llama.cpp is told so in the same words."""

import re
from pathlib import Path

import pytest

import proxy
from proxy.engine.tensor_names import EXPERTS, FEED_FORWARD


@pytest.mark.parametrize(
    "name",
    [
        "blk.3.ffn_up_exps.weight",
        "blk.12.ffn_gate_up_exps.weight",
        "blk.3.ffn_down_exps.bias",
        "blk.3.ffn_gate_exps.scale",
        "blk.3.ffn_up_chexps.weight",
    ],
)
def test_experts_with_whatever_ending(name: str) -> None:
    match = EXPERTS.match(name)

    assert match is not None
    assert match[1] == name.split(".")[1]
    assert not FEED_FORWARD.match(name)


@pytest.mark.parametrize("name", ["blk.3.ffn_up_shexp.weight", "blk.3.ffn_gate_inp.weight"])
def test_what_every_token_needs_stays(name: str) -> None:
    assert not EXPERTS.match(name)
    assert not FEED_FORWARD.match(name)


@pytest.mark.parametrize("part", ["up", "gate", "down"])
def test_the_feed_forward_part_of_a_dense_model(part: str) -> None:
    match = FEED_FORWARD.match(f"blk.7.ffn_{part}.weight")

    assert match is not None
    assert match[1] == "7"


def test_nobody_else_writes_these_patterns() -> None:
    package = Path(proxy.__path__[0])
    pattern = re.compile(r"ffn_\(")

    assert [
        str(file.relative_to(package))
        for file in sorted(package.rglob("*.py"))
        if pattern.search(file.read_text())
    ] == ["engine/tensor_names.py"]
