"""Generated models for tests, made on demand and cached."""

import hashlib
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

from gguf import GGMLQuantizationType as Type

import proxy.demo.gguf_writer
import proxy.demo.model
import proxy.demo.vocabulary
from proxy.demo.gguf_writer import write_model
from proxy.demo.model import chatml_template
from proxy.demo.vocabulary import build_vocabulary
from tests.support import archive, shapes
from tests.support.shapes import ENCODERS, SHAPES, Sizes, embeddings

# Mixtures of experts, in the order of how often they are run.
MOE_SHAPES = ("qwen3moe", "gpt-oss", "mixtral", "deepseek2", "glm4moe")


def model(
    shape: str = "qwen3moe",
    *,
    layers: int = 12,
    quant: str | None = None,
    vocab: str | None = None,
    template: str | None = None,
    seed: int = 0,
    folder: Path | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Path:
    """A model of one of SHAPES with random weights; about 10 to 40 MB.

    `quant` is the type of the experts (of all weights in a shape without experts), by ggml's name;
    the default is the one of real files: MXFP4 for gpt-oss, else Q8_0.
    `vocab` is "small" or a real one ("qwen2", "llama-spm", ...: see `archive.vocabulary`; large).
    `template` is the name of a real chat template (see `archive.template`); the default is ChatML.
    With some (gpt-oss) llama-server refuses chat answers that do not follow a grammar, as these.
    `sizes` replaces fields of `Sizes` (`experts`, `width`, ...).
    """
    quant = quant or ("MXFP4" if shape == "gpt-oss" else "Q8_0")
    # An encoder marks its input with special tokens that the small vocabulary does not have.
    vocab = vocab or ("bert-bge" if shape in ENCODERS else "small")
    kinds = {"type" if shape in ("qwen3", "llama", *ENCODERS) else "experts_type": Type[quant]}
    chosen = replace(Sizes(layers=layers), **dict(sizes or {}), **kinds)  # type: ignore[arg-type]
    if shape in ENCODERS:
        chosen = replace(chosen, context=min(chosen.context, 512))
    detail = [vocab, template, seed, *(getattr(chosen, field.name) for field in fields(Sizes))]
    digest = hashlib.sha256(f"{_code()}{detail}".encode()).hexdigest()[:8]
    folder = folder or archive.cache_folder() / "models"
    path = folder / f"{shape}-{layers}l-{digest}-{quant}.gguf"
    if not path.exists():
        _write(path, shape, chosen, vocab, template, seed)
    return path


def _write(
    path: Path, shape: str, sizes: Sizes, vocab: str, template: str | None, seed: int
) -> None:
    vocabulary = build_vocabulary() if vocab == "small" else archive.vocabulary(vocab)
    architecture, metadata, body = SHAPES[shape](sizes)
    head = {"general.name": f"test {shape}"} | vocabulary.metadata
    if shape not in ENCODERS:
        text = archive.template(template) if template else chatml_template()
        head["tokenizer.chat_template"] = text
    tensors = [*embeddings(shape, sizes, vocabulary), *body]
    write_model(path, architecture, metadata=head | metadata, tensors=tensors, seed=seed)


@cache
def _code() -> str:
    """A digest of the code that writes models, so that a changed writer makes new files."""
    modules = (proxy.demo.gguf_writer, proxy.demo.model, proxy.demo.vocabulary, archive, shapes)
    sources = [Path(module.__file__ or "").read_bytes() for module in modules]
    return hashlib.sha256(b"".join([*sources, Path(__file__).read_bytes()])).hexdigest()
