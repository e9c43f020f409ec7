from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from proxy.demo.gguf_writer import BLOCKS, FLOATS, TensorSpec, draw, write_model


@pytest.mark.parametrize("kind", [*BLOCKS, *FLOATS])
def test_blocks_have_the_spread_asked_for(kind: Type) -> None:
    drawn = draw(TensorSpec("x", (64, 1024), kind, 0.05), np.random.default_rng(1))

    values = gguf.quants.dequantize(drawn, kind)

    assert values.shape == (64, 1024)
    assert values.std() == pytest.approx(0.05, rel=0.08)
    assert abs(values.mean()) < 0.006


def test_only_live_rows_have_values() -> None:
    spec = TensorSpec("x", (5, 8), Type.F16, 1.0, live_rows=(1, 4))

    drawn = draw(spec, np.random.default_rng(1))

    assert np.flatnonzero(np.any(drawn, axis=1)).tolist() == [1, 4]


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    spec = TensorSpec("x", (8, 32), Type.Q8_0, 1.0)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_model(tmp_path / name, "tiny", metadata={}, tensors=[spec], seed=seed)

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


@pytest.mark.parametrize(
    ("metadata", "spec"),
    [({"k": object()}, TensorSpec("x", (1,))), ({}, TensorSpec("x", (32,), Type.Q8_0, mean=1.0))],
)
def test_a_failed_write_leaves_nothing(
    metadata: dict[str, object], spec: TensorSpec, tmp_path: Path
) -> None:
    with pytest.raises((TypeError, ValueError)):
        write_model(tmp_path / "a", "tiny", metadata=metadata, tensors=[spec])

    assert list(tmp_path.iterdir()) == []


def test_quantised_tensors_have_no_mean() -> None:
    with pytest.raises(ValueError, match="only float tensors"):
        draw(TensorSpec("x", (1, 32), Type.Q8_0, 1.0, mean=1.0), np.random.default_rng(1))
