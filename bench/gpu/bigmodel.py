"""The step `model`: tens of GB in the shape of a real mixture of experts, as fast as a disk takes
them.

Each expert tensor repeats a few drawn experts, turned by another step in each layer: drawing every
one would take many minutes, and to a GPU it is all the same.
"""

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

from bench.gpu.work import Settings
from proxy.demo.gguf_writer import TensorSpec, draw, opened
from proxy.demo.vocabulary import build_vocabulary
from tests.support.shapes import SHAPES, Sizes, embeddings

DRAWN_EXPERTS = 4
# Name -> the shape of tests/support/shapes.py, and the sizes of the real model.
MODELS: dict[str, tuple[str, Sizes]] = {
    "qwen3-30b-a3b": (
        "qwen3moe",
        Sizes(48, 2048, 128, 8, 768, 32, 4, 128, 40960, experts_type=Type.Q4_K),
    ),
    "gpt-oss-120b": (
        "gpt-oss",
        Sizes(36, 2880, 128, 4, 2880, 64, 8, 64, 131072, experts_type=Type.MXFP4),
    ),
    "tiny": ("qwen3moe", Sizes(layers=6)),
}


def path_of(settings: Settings) -> Path:
    return settings.model_folder / f"{settings.shape}.gguf"


def make_model(settings: Settings) -> str:
    """Write the model, whole or not at all; returns what is there."""
    path = path_of(settings)
    if not path.exists():
        # Whole or not at all, so there has to be time for all of it.
        settings.need(min(120.0, settings.limit_s / 3), "writing the model")
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        write(part, settings.shape)
        part.replace(path)
    return f"{path}, {path.stat().st_size / 1e9:.2f} GB"


def write(path: Path, name: str) -> None:
    """One tensor at a time, so that memory holds one expert tensor (0.6 GB at most)."""
    shape, sizes = MODELS[name]
    vocabulary = build_vocabulary()
    architecture, metadata, body = SHAPES[shape](sizes)
    specs = [*embeddings(shape, sizes, vocabulary), *body]
    head = {"general.name": f"generated {name}"} | vocabulary.metadata | metadata
    with opened(path, architecture, head, specs) as writer:
        random = np.random.default_rng(0)
        drawn: dict[tuple[tuple[int, ...], Type, float], NDArray[Any]] = {}
        for number, spec in enumerate(specs):
            if len(spec.shape) == 3 and spec.shape[0] > DRAWN_EXPERTS:
                kind = (spec.shape, spec.type, spec.spread)
                if kind not in drawn:
                    few = (DRAWN_EXPERTS, *spec.shape[1:])
                    drawn[kind] = draw(TensorSpec(spec.name, few, spec.type, spec.spread), random)
                writer.write_tensor_data(repeated(drawn[kind], spec.shape[0], number))
            else:
                writer.write_tensor_data(draw(spec, random))


def repeated(few: NDArray[Any], count: int, turn: int) -> NDArray[Any]:
    """`count` experts out of a few, each with its rows turned by another step."""
    whole = np.empty((count, *few.shape[1:]), few.dtype)
    for index in range(count):
        step = (turn * 131 + index * 17) % few.shape[1]
        source = few[index % len(few)]
        whole[index, step:], whole[index, :step] = (
            source[: len(source) - step],
            source[-step:][:step],
        )
    return whole
