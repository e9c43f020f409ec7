"""Models as Ollama lists and describes them. Pure: values of the catalogue in, JSON objects out."""

import hashlib
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from proxy.catalog.entry import Entry
from proxy.catalog.gguf import Header
from proxy.catalog.names import LATEST
from proxy.catalog.summary import Summary
from proxy.catalog.templates import takes_tools, thinks
from proxy.dialect.forced_call import PLAIN, Calling, calling_of
from proxy.dialect.ollama.reasoning import NO_MARKS, Marks, marks_of
from proxy.dialect.ollama.times import NANOSECONDS, rfc3339

# Digits that tell any two numbers of 32 bits apart.
FLOAT_DIGITS: Final = 9
# llama-server's arguments for another chat template than the model's own.
TEMPLATES: Final = ("--chat-template", "--chat-template-file")
NEVER: Final = "9999-12-31T23:59:59Z"


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a model can be asked for. What is not known is taken for granted."""

    chat: bool = True
    tools: bool = True
    thinking: bool = True
    thinks: bool = False  # it is known to, and so is asked to
    template: bool = True  # it has one, so that prompts are conversations
    marks: Marks = NO_MARKS  # of its thoughts
    calling: Calling = PLAIN  # how it is made to call a tool


def display_name(name: str) -> str:
    """A name with its tag: where none is given it is `latest`."""
    return name if ":" in name.rpartition("/")[2] else name + LATEST


def template_of(entry: Entry, header: Header) -> str:
    """The chat template that llama-server uses: the model's own in Jinja, else the file's."""
    if entry.template and entry.template_file:
        return entry.template
    text = header.metadata.get("tokenizer.chat_template")
    return text if isinstance(text, str) else ""


def abilities(entry: Entry, header: Header) -> Abilities:
    """What the template and the kind of model allow."""
    template = template_of(entry, header)
    return Abilities(
        chat=header.pooling is None,
        tools=takes_tools(template),
        thinking=thinks(template),
        thinks=thinks(template),
        template=bool(template),
        marks=marks_of(template),
        calling=calling_of(template),
    )


def replaces_template(args: Sequence[str]) -> bool:
    """Whether a policy's `args` name a template. Then the model's own says nothing: all is allowed,
    and the engine has to say."""
    return any(arg.partition("=")[0] in TEMPLATES for arg in args)


def capabilities(entry: Entry, summary: Summary, args: Sequence[str] = ()) -> list[str]:
    """The same as Ollama's words for it; none for a file that could not be read. `args` are the
    policy's: clients offer no tools and no pictures to a model that is not said to take them."""
    if not summary.architecture:
        return []
    own = (entry.template or "") if entry.template_file else None
    tools = summary.tools if own is None else takes_tools(own)
    thinking = summary.thinking if own is None else thinks(own)
    if replaces_template(args):
        tools = thinking = True
    words = {
        "completion": summary.chat,
        "embedding": not summary.chat,
        "vision": entry.projector is not None or "--mmproj" in args,
        "tools": summary.chat and tools,
        "insert": summary.chat and summary.insert,
        "thinking": summary.chat and thinking,
    }
    return [word for word, has in words.items() if has]


def details(entry: Entry | None, summary: Summary) -> dict[str, Any]:
    """The `details` of a model, from its manifest where it has one, else from its file."""
    config = entry.config if entry else {}
    family = str(config.get("model_family") or summary.architecture)
    families = config.get("model_families") or ([family] if family else [])
    # What Ollama counted counts; other configurations may have a label ("30B-A3B"), which is no
    # count.
    size = [summary.parameters, str(config.get("model_type") or "")]
    if entry and entry.source == "ollama":
        size.reverse()
    made: dict[str, Any] = {
        "parent_model": entry.parent if entry else "",
        "format": str(config.get("model_format") or ("gguf" if entry else "")),
        "family": family,
        "families": families,
        "parameter_size": next(filter(None, size), ""),
        "quantization_level": str(summary.quantization or config.get("file_type") or ""),
    }
    if summary.context_length:
        made["context_length"] = summary.context_length
    if summary.embedding_length:
        made["embedding_length"] = summary.embedding_length
    return made


def digest(name: str, entry: Entry | None, *, variant: bool = False) -> str:
    """The manifest's digest; for a plain file one of its name, size and time, as reading it all
    would take minutes.

    Clients take models of one digest for names of one model, and ask by any of them. So the name
    is in it where policies may have several answers for one file, or for one manifest (`variant`).
    """
    if entry and entry.digest and not variant:
        return entry.digest.removeprefix("sha256:")
    seen = (entry.digest, entry.path, entry.size_bytes, entry.modified_at) if entry else ()
    return hashlib.sha256(repr((name, *map(str, seen))).encode()).hexdigest()


def modified(entry: Entry | None) -> str:
    """When the model last changed."""
    return rfc3339(round(entry.modified_at * NANOSECONDS) if entry else 0)


def tag(
    name: str,
    entry: Entry | None,
    summary: Summary,
    args: Sequence[str] = (),
    *,
    variant: bool = False,
) -> dict[str, Any]:
    """One model of `/api/tags`; `args` are its policy's."""
    words = capabilities(entry, summary, args) if entry else []
    return {
        "name": display_name(name),
        "model": display_name(name),
        "modified_at": modified(entry),
        "size": entry.size_bytes if entry else 0,
        "digest": digest(name, entry, variant=variant),
        "details": details(entry, summary),
        **({"capabilities": words} if words else {}),
    }


def model_info(header: Header) -> dict[str, Any]:
    """The header's metadata by key, without the name and template that are told elsewhere. Long
    arrays that were not kept are null, as in Ollama."""
    info: dict[str, Any] = dict.fromkeys(header.array_lengths)
    info.update((key, _as_written(value)) for key, value in header.metadata.items())
    info["general.parameter_count"] = header.parameter_count
    for key in ("general.name", "tokenizer.chat_template"):
        info.pop(key, None)
    return dict(sorted(info.items()))


def _as_written(value: Any) -> Any:
    """A number of 32 bits in as many digits as it was written with, where Python shows those of 64:
    1e-06, not 9.999999974752427e-07. A whole one as such."""
    if isinstance(value, tuple):
        return [_as_written(item) for item in value]
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    if value.is_integer():
        return int(value)
    try:
        bits = struct.pack("<f", value)
    except OverflowError:
        return value
    if struct.unpack("<f", bits)[0] != value:
        return value  # it has 64 bits
    shorter = (float(f"{value:.{digits}g}") for digits in range(1, FLOAT_DIGITS + 1))
    return next(number for number in shorter if struct.pack("<f", number) == bits)


def tensors(header: Header) -> list[dict[str, Any]]:
    """Every tensor with its type and shape."""
    return [
        {"name": tensor.name, "type": tensor.type, "shape": list(tensor.shape)}
        for tensor in header.tensors
    ]


def parameters(params: Mapping[str, Any]) -> str:
    """Parameters as Ollama prints them: a line each, the name padded; a list has several lines."""
    return "\n".join(f"{name:<30} {value}" for name, value in _written(params))


def _written(params: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in params.items():
        for one in value if isinstance(value, list | tuple) else [value]:
            yield name, msgspec.json.encode(one).decode()
