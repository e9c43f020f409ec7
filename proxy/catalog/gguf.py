"""What a GGUF file says about its model: metadata, and where each tensor's bytes are. Values only;
`proxy.catalog.gguf_reader` reads them."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

Scalar = int | float | bool | str
Value = Scalar | tuple[Scalar, ...]

POOLING: Final = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}


class GgufError(ValueError):
    """Not a GGUF that can be used; the message names the file, the place and what is wrong."""


class BadNumbers(GgufError):
    """A GGUF whose numbers no model can have: nothing may be computed with them, or loaded."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor. `shape` is in ggml's order (the row's length first).

    Its `size_bytes` bytes begin at `position` of `file`, counted from the file's first byte.
    `type` is ggml's name ("Q8_0"), or "type 144" for one we do not know.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    file: Path
    position: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """A model's header, all parts of a split model together. `size_bytes` is that of all files.

    `metadata` lacks the long arrays (vocabularies); `array_lengths` has the length of every array.
    """

    files: tuple[Path, ...]
    size_bytes: int
    metadata: Mapping[str, Value]
    array_lengths: Mapping[str, int]
    tensors: tuple[Tensor, ...]

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture, for example "qwen3moe"; empty if there is none."""
        return self._string("general.architecture")

    @property
    def name(self) -> str:
        """The model's own name, empty where it has none."""
        return self._string("general.name")

    @property
    def layers(self) -> int:
        """The number of blocks, those of multi-token prediction included; 0 if unknown."""
        return self.count("block_count")

    @property
    def context_length(self) -> int | None:
        """The context in tokens that the model was trained for."""
        return self.count("context_length") or None

    @property
    def embedding_length(self) -> int:
        """The width of the model; 0 if unknown."""
        return self.count("embedding_length")

    @property
    def parameter_count(self) -> int:
        """How many weights there are, in all tensors."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    @property
    def main_type(self) -> str:
        """The type of most of the weights, by bytes; empty where there are none."""
        sizes: Counter[str] = Counter()
        for tensor in self.tensors:
            sizes[tensor.type] += tensor.size_bytes
        return sizes.most_common(1)[0][0] if sizes else ""

    @property
    def expert_count(self) -> int:
        """Experts per layer, 0 in a dense model."""
        return self.count("expert_count")

    @property
    def is_moe(self) -> bool:
        """Whether this is a mixture of experts."""
        return self.expert_count > 0

    @property
    def has_chat_template(self) -> bool:
        """Whether the file carries a chat template."""
        return bool(self._string("tokenizer.chat_template"))

    @property
    def pooling(self) -> str | None:
        """How the model pools: "none", "mean", "cls", "last" or, in rerankers, "rank".

        None in models that are not made for embeddings or reranking.
        """
        value = self.hyper("pooling_type")
        return POOLING.get(value) if isinstance(value, int) else None

    def hyper(self, key: str) -> Value | None:
        """What the file says under the architecture's name: `qwen3moe.KEY`."""
        return self.metadata.get(f"{self.architecture}.{key}")

    def count(self, key: str) -> int:
        """A count among those, the largest where each layer has its own; 0 if unknown."""
        value = self.hyper(key)
        values = value if isinstance(value, tuple) else (value,)
        return max((v for v in values if isinstance(v, int) and v > 0), default=0)

    def _string(self, key: str) -> str:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else ""
