"""The few facts of a header that lists of models show, kept over restarts.

The count of weights and the template stand behind the vocabulary, so each header is read as a
whole, once: a few hundredths of a second with a large vocabulary.
"""

import threading
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Final

import msgspec

from proxy.catalog.cache import MAX_BYTES, write
from proxy.catalog.entry import Entry
from proxy.catalog.ggml_types import FILE_TYPES
from proxy.catalog.gguf import POOLING, GgufError, Header, Value
from proxy.catalog.gguf_reader import read_beginning, read_header
from proxy.catalog.templates import takes_tools, thinks
from proxy.files import read_small

VERSION: Final = 3
FIM_KEYS: Final = ("tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id")
Signature = tuple[int, int]


class Summary(msgspec.Struct, frozen=True, array_like=True):
    """`parameters` is their number for people ("30.5B"), `quantization` llama.cpp's word ("Q8_0").

    0 and "" where the file does not say. `embedding` is whether it is made for embeddings, `chat`
    whether it is made to go on with a text. `tools` and `thinking` are what its own chat template
    has a place for, `insert` is whether its vocabulary knows gaps.
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
    chat: bool = True
    template: bool = False
    tools: bool = False
    thinking: bool = False
    insert: bool = False


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
    try:
        return summary_of(read_header(path))
    except GgufError:
        # Of a file that ends too early, or lacks a part, the beginning is better than nothing.
        return _summary(read_beginning(path))


def summary_of(header: Header) -> Summary:
    """The same of a header that was read."""
    found = _summary(header.metadata)
    template = _text(header.metadata, "tokenizer.chat_template")
    return msgspec.structs.replace(
        found,
        parameters=in_words(header.parameter_count),
        quantization=found.quantization or header.main_type,
        template=bool(template),
        tools=takes_tools(template),
        thinking=thinks(template),
        insert=any(key in header.metadata for key in FIM_KEYS),
    )


def _summary(found: Mapping[str, Value]) -> Summary:
    """What the beginning of a header says; for the number of parameters there is only a label."""
    file_type = found.get("general.file_type")
    architecture = _text(found, "general.architecture")
    pooling = found.get(f"{architecture}.pooling_type")
    return Summary(
        architecture=architecture,
        name=_text(found, "general.name"),
        parameters=_text(found, "general.size_label"),
        quantization=FILE_TYPES.get(file_type, "") if isinstance(file_type, int) else "",
        layers=_count(found, f"{architecture}.block_count"),
        context_length=_count(found, f"{architecture}.context_length"),
        embedding_length=_count(found, f"{architecture}.embedding_length"),
        expert_count=_count(found, f"{architecture}.expert_count"),
        embedding=isinstance(pooling, int) and pooling in (1, 2, 3),
        chat=pooling not in POOLING,
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
