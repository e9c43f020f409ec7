"""The few facts of a header that lists of models show, read fast and kept over restarts.

They stand before the vocabulary in every file, so that a list of hundreds of models reads a few
kilobytes of each instead of megabytes.
"""

import threading
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Final

import msgspec

from proxy.catalog.cache import MAX_BYTES, write
from proxy.catalog.entry import Entry
from proxy.catalog.ggml_types import FILE_TYPES
from proxy.catalog.gguf import GgufError, Value
from proxy.catalog.gguf_reader import read_beginning, read_header
from proxy.files import read_small

VERSION: Final = 2
Signature = tuple[int, int]


class Summary(msgspec.Struct, frozen=True, array_like=True):
    """`parameters` is for people ("30B-A3B", "7.6B"), `quantization` llama.cpp's name ("Q4_K_M").

    0 and "" where the file does not say. `embedding` is whether it is made for embeddings.
    """

    architecture: str = ""
    name: str = ""
    parameters: str = ""
    quantization: str = ""
    layers: int = 0
    context_length: int = 0
    embedding_length: int = 0
    expert_count: int = 0
    embedding: bool = False


class _File(msgspec.Struct):
    version: int
    summaries: dict[str, tuple[Signature, Summary]]


class Summaries:
    """Summaries by file, valid while its size and time of change stay. Used from any thread."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._lock = threading.Lock()
        # What changes: the summaries, and whether some are not in the file yet.
        self._known = _load(file)
        self._dirty = False

    def of(self, entry: Entry) -> Summary:
        """The summary of a model; an empty one where its file cannot be read."""
        if not entry.files:
            return Summary()
        try:
            status = entry.path.stat()
        except OSError:
            return Summary()
        signature = (status.st_size, status.st_mtime_ns)
        key = str(entry.path)
        known = self._known.get(key)
        if known is None or known[0] != signature:
            try:
                known = (signature, summarise(entry.path))
            except (OSError, GgufError):
                known = (signature, Summary())
            with self._lock:
                self._known[key] = known
                self._dirty = True
        return known[1]

    def save(self, paths: Set[Path]) -> None:
        """Write what is known of `paths` to the file, if anything is new; failing that, go on."""
        with self._lock:
            if not self._dirty or self._file is None:
                return
            keys = {str(path) for path in paths}
            self._known = {key: value for key, value in self._known.items() if key in keys}
            data = msgspec.json.encode(_File(VERSION, self._known))
            self._dirty = False
            write(self._file, data)


def _load(file: Path | None) -> dict[str, tuple[Signature, Summary]]:
    if file is None:
        return {}
    try:
        found = msgspec.json.decode(read_small(file, MAX_BYTES), type=_File)
    except (OSError, ValueError, RecursionError):
        return {}
    return found.summaries if found.version == VERSION else {}


def summarise(path: Path) -> Summary:
    """What the file says. Raises GgufError if it is not usable, OSError if it is gone."""
    found = read_beginning(path)
    parameters = _text(found, "general.size_label")
    file_type = found.get("general.file_type")
    quantization = FILE_TYPES.get(file_type, "") if isinstance(file_type, int) else ""
    if not parameters or not quantization:
        # Where no label says it, all tensors have to be looked at.
        header = read_header(path)
        parameters = parameters or in_words(header.parameter_count)
        quantization = quantization or header.main_type
    architecture = _text(found, "general.architecture")
    pooling = found.get(f"{architecture}.pooling_type")
    return Summary(
        architecture=architecture,
        name=_text(found, "general.name"),
        parameters=parameters,
        quantization=quantization,
        layers=_count(found, f"{architecture}.block_count"),
        context_length=_count(found, f"{architecture}.context_length"),
        embedding_length=_count(found, f"{architecture}.embedding_length"),
        expert_count=_count(found, f"{architecture}.expert_count"),
        embedding=isinstance(pooling, int) and pooling in (1, 2, 3),
    )


def in_words(count: int) -> str:
    """A number of parameters as Ollama writes it: 30.5B, 137.13M, 512K."""
    for unit, letter, digits in ((10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 0)):
        if count >= unit:
            number = count / unit
            return (
                f"{number:.0f}{letter}" if number.is_integer() else f"{number:.{digits}f}{letter}"
            )
    return str(count)


def _text(found: Mapping[str, Value], key: str) -> str:
    value = found.get(key)
    return value if isinstance(value, str) else ""


def _count(found: Mapping[str, Value], key: str) -> int:
    value = found.get(key)
    values = value if isinstance(value, tuple) else (value,)
    return max((v for v in values if isinstance(v, int) and v > 0), default=0)
