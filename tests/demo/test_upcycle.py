"""A dense model made into a mixture of experts, as llama-server runs both."""

from pathlib import Path

import pytest

from proxy.catalog.gguf_reader import read_header
from proxy.demo.upcycle import upcycle
from tests.support.llama import Client, plain_server
from tests.support.models import model


@pytest.mark.llama
async def test_it_says_what_the_dense_model_says(tmp_path: Path) -> None:
    dense, made = model("llama", layers=3), tmp_path / "made.gguf"

    upcycle(dense, made, experts=4, used=2, name="made of it")

    header = read_header(made)
    experts = [tensor for tensor in header.tensors if "_exps" in tensor.name]
    assert (header.layers, len(experts)) == (3, 9)
    said = []
    for path in (dense, made):
        async with plain_server(path, "-c", "512", "-t", "1") as address, Client(address) as client:
            said.append(await client.text("the quick brown fox", 16))
    assert said[0] == said[1]


@pytest.mark.parametrize(("shape", "why"), [("qwen3", "qwen3, not llama"), ("mixtral", "no feed")])
def test_what_cannot_be_made(shape: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=why):
        upcycle(model(shape, layers=3), tmp_path / "x.gguf", experts=4, used=2, name="x")
