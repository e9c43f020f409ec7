"""Models as Ollama lists and describes them. Pure: values of the catalogue in, JSON objects out."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from proxy.catalog.entry import Entry
from proxy.catalog.gguf import Header
from proxy.catalog.names import LATEST
from proxy.catalog.summary import Summary
from proxy.dialect.forced_call import PLAIN, Calling, calling_of
from proxy.dialect.ollama.reasoning import NO_MARKS, Marks, marks_of
from proxy.dialect.ollama.times import NANOSECONDS, rfc3339

# Longer arrays are left empty in answers that do not ask for everything.
SHORT_ARRAY: Final = 5
FIM_KEYS: Final = ("tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id")
# What templates of models that think have in them: their tags, or the switch for it.
THINKING_MARKS: Final = ("</think>", "enable_thinking", "reasoning_effort", "[/THINK]")
NEVER: Final = "9999-12-31T23:59:59Z"


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a model can be asked for. What is not known is taken for granted."""

    chat: bool = True
    tools: bool = True
    thinking: bool = True
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
        tools="tools" in template or "tool_call" in template,
        thinking=any(mark in template for mark in THINKING_MARKS),
        template=bool(template),
        marks=marks_of(template),
        calling=calling_of(template),
    )


def capabilities(entry: Entry, header: Header) -> list[str]:
    """The same as Ollama's words for it."""
    can = abilities(entry, header)
    words = {
        "completion": can.chat,
        "embedding": not can.chat,
        "vision": entry.projector is not None,
        "tools": can.chat and can.tools,
        "insert": can.chat and any(key in header.metadata for key in FIM_KEYS),
        "thinking": can.chat and can.thinking,
    }
    return [word for word, has in words.items() if has]


def details(entry: Entry | None, summary: Summary) -> dict[str, Any]:
    """The `details` of a model, from its manifest where it has one, else from its file."""
    config = entry.config if entry else {}
    family = str(config.get("model_family") or summary.architecture)
    families = config.get("model_families") or ([family] if family else [])
    made: dict[str, Any] = {
        "parent_model": "",
        "format": str(config.get("model_format") or ("gguf" if entry else "")),
        "family": family,
        "families": families,
        "parameter_size": str(config.get("model_type") or summary.parameters),
        "quantization_level": str(summary.quantization or config.get("file_type") or ""),
    }
    if summary.context_length:
        made["context_length"] = summary.context_length
    if summary.embedding_length:
        made["embedding_length"] = summary.embedding_length
    return made


def digest(name: str, entry: Entry | None) -> str:
    """The manifest's digest; for a plain file one of its name, size and time, as reading it all
    would take minutes.
    """
    if entry and entry.digest:
        return entry.digest.removeprefix("sha256:")
    seen = f"{entry.path}:{entry.size_bytes}:{entry.modified_at}" if entry else name
    return hashlib.sha256(seen.encode()).hexdigest()


def modified(entry: Entry | None) -> str:
    """When the model last changed."""
    return rfc3339(round(entry.modified_at * NANOSECONDS) if entry else 0)


def tag(name: str, entry: Entry | None, summary: Summary) -> dict[str, Any]:
    """One model of `/api/tags`."""
    return {
        "name": display_name(name),
        "model": display_name(name),
        "modified_at": modified(entry),
        "size": entry.size_bytes if entry else 0,
        "digest": digest(name, entry),
        "details": details(entry, summary),
    }


def model_info(header: Header, *, verbose: bool) -> dict[str, Any]:
    """The header's metadata by key, without the name and template that are told elsewhere."""
    info: dict[str, Any] = dict.fromkeys(header.array_lengths)
    info.update(header.metadata)
    for key, value in info.items():
        if value is None or (isinstance(value, tuple) and len(value) > SHORT_ARRAY and not verbose):
            info[key] = []
    info["general.parameter_count"] = sum(_elements(tensor.shape) for tensor in header.tensors)
    for key in ("general.name", "tokenizer.chat_template"):
        info.pop(key, None)
    return dict(sorted(info.items()))


def tensors(header: Header) -> list[dict[str, Any]]:
    """Every tensor with its type and shape."""
    return [
        {"name": tensor.name, "type": tensor.type, "shape": list(tensor.shape)}
        for tensor in header.tensors
    ]


def parameters(params: Mapping[str, Any]) -> str:
    """Parameters as Ollama prints them: a line each, the name padded; a list has several lines."""
    return "\n".join(f"{name:<30} {value}" for name, value in _written(params))


def modelfile(name: str, entry: Entry | None, template: str, params: Mapping[str, Any]) -> str:
    """A Modelfile that would make this model again."""
    lines = [
        "# Modelfile generated by moe-proxy",
        "# To build a new Modelfile based on this one, replace the FROM line with:",
        f"# FROM {display_name(name)}",
        "",
        f"FROM {entry.path if entry else name}",
    ]
    if template:
        lines.append(f'TEMPLATE """{template}"""')
    if entry:
        lines += [f'SYSTEM """{entry.system}"""'] if entry.system else []
        lines += [f"ADAPTER {adapter}" for adapter in entry.adapters]
        lines += [f'MESSAGE {message.role} """{message.content}"""' for message in entry.messages]
    lines += [f"PARAMETER {name} {value}" for name, value in _written(params)]
    return "\n".join(lines) + "\n"


def _written(params: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in params.items():
        for one in value if isinstance(value, list | tuple) else [value]:
            yield name, msgspec.json.encode(one).decode()


def _elements(shape: Iterable[int]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count
