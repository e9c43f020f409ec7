"""Sparse upcycling: a dense model of llama's architecture becomes a mixture of experts that says
the same: each expert is a copy of the layer's feed-forward weights, and the router's shares add up
to one (Komatsuzaki et al., 2022, arXiv 2212.05055).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from numpy.typing import NDArray

# A layer's tensors that become experts: llama.cpp's names of them end in ".weight".
_FEED_FORWARD: Final = ("ffn_gate", "ffn_up", "ffn_down")
_ROUTER_SPREAD: Final = 0.02  # as a router begins its training

Tensor = tuple[str, NDArray[Any], GGMLQuantizationType]


def upcycle(source: Path, target: Path, *, experts: int, used: int, name: str) -> None:
    """Write `source` with `experts` experts a layer, `used` of them for each token, to `target`.

    Raises ValueError if `source` is no dense model of llama's architecture.
    """
    reader = GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    if architecture != "llama":
        raise ValueError(f"{source} is of the architecture {architecture}, not llama")
    writer = GGUFWriter(target, architecture)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        value = name if field.name == "general.name" else field.contents()
        items = field.types[-1] if field.types[0] is GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, value, field.types[0], sub_type=items)
    writer.add_expert_count(experts)
    writer.add_expert_used_count(used)
    tensors = list(_tensors(reader, experts))
    for title, data, kind in tensors:
        writer.add_tensor_info(title, data.shape, data.dtype, data.nbytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, data, _ in tensors:
        writer.write_tensor_data(data)
    writer.close()


def _tensors(reader: GGUFReader, experts: int) -> Iterator[Tensor]:
    random = np.random.default_rng(1)
    found = 0
    for tensor in reader.tensors:
        part = next((x for x in _FEED_FORWARD if tensor.name.endswith(f".{x}.weight")), None)
        if part is None:
            yield tensor.name, tensor.data, tensor.tensor_type
            continue
        found += 1
        copies = np.broadcast_to(tensor.data, (experts, *tensor.data.shape))
        yield tensor.name.replace(part, f"{part}_exps"), copies, tensor.tensor_type
        if part == "ffn_gate":
            width = int(tensor.shape[0])
            router = random.normal(0.0, _ROUTER_SPREAD, (experts, width)).astype(np.float32)
            title = tensor.name.replace(part, "ffn_gate_inp")
            yield title, router, GGMLQuantizationType.F32
    if not found:
        raise ValueError("there are no feed-forward weights in it")
