from pathlib import Path

import pytest

from proxy.catalog.engine_only import unsupported_reason
from proxy.catalog.gguf_reader import read_header
from proxy.demo.gguf_writer import TensorSpec, write_model
from tests.support.models import model


@pytest.mark.parametrize(
    ("architecture", "tensor", "reason"),
    [
        ("gptoss", "blk.0.a", "its architecture is written 'gptoss'"),
        ("gemma3", "v.blk.0.a", "tensors such as 'v.blk.0.a' inside"),
        ("gemma3", "blk.0.a", None),
        ("clip", "v.blk.0.a", None),
    ],
)
def test_made_for_ollamas_engine(
    architecture: str, tensor: str, reason: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "m.gguf"
    write_model(path, architecture, metadata={}, tensors=[TensorSpec(tensor, (4, 64))])

    why = unsupported_reason(read_header(path))

    assert (why is None) == (reason is None)
    assert (reason or "") in (why or "")


@pytest.mark.parametrize("shape", ["qwen3moe", "gpt-oss", "bert-rerank"])
def test_made_for_llama_cpp(shape: str) -> None:
    assert unsupported_reason(read_header(model(shape, layers=2))) is None
