"""Models as Ollama describes them."""

import math
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.catalog.entry import Entry, Source
from proxy.catalog.gguf_reader import read_header
from proxy.catalog.summary import Summary, summary_of
from proxy.dialect.ollama import models
from tests.support.models import model


@pytest.fixture(scope="module")
def entry() -> Entry:
    path = model(layers=2)
    return Entry("m", path, (path,), path.stat().st_size, 1_700_000_000.5)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("llama3", "llama3:latest"),
        ("llama3:8b", "llama3:8b"),
        ("hf.co/org/repo", "hf.co/org/repo:latest"),
        ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
    ],
)
def test_names(name: str, shown: str) -> None:
    assert models.display_name(name) == shown


def test_a_plain_file(entry: Entry) -> None:
    summary = Summary(architecture="qwen3moe", parameters="30B-A3B", quantization="Q4_K_M")
    tag = models.tag("m", entry, summary)

    assert tag["modified_at"] == "2023-11-14T22:13:20.5Z"
    assert tag["capabilities"] == ["completion"]
    assert tag["details"] == {
        "parent_model": "",
        "format": "gguf",
        "family": "qwen3moe",
        "families": ["qwen3moe"],
        "parameter_size": "30B-A3B",
        "quantization_level": "Q4_K_M",
    }
    assert len(tag["digest"]) == 64
    assert models.digest("m", replace(entry, modified_at=0.0)) != tag["digest"]


def test_what_answers_differently_has_another_digest(entry: Entry) -> None:
    """Clients take what has one digest for one model, and ask by any of its names."""
    pulled = replace(entry, digest="sha256:" + "ab" * 32)

    assert models.digest("a", entry) != models.digest("b", entry)
    assert models.digest("a", entry) == models.tag("a", entry, Summary())["digest"]
    assert models.digest("a", pulled) == models.digest("copy", pulled)
    found = {models.tag(name, pulled, Summary(), variant=True)["digest"] for name in ("b", "c")}
    assert len(found | {models.digest("a", pulled)}) == 3


def test_a_manifest_knows_better(entry: Entry) -> None:
    config = {"model_family": "llama", "model_families": ["llama", "clip"], "model_type": "8B"}
    own = replace(entry, config=config, digest="sha256:" + "ab" * 32)
    details = models.details(own, Summary(architecture="x", context_length=7, embedding_length=8))

    assert models.digest("m", own) == "ab" * 32
    assert details["family"] == "llama"
    assert details["families"] == ["llama", "clip"]
    assert (details["context_length"], details["embedding_length"]) == (7, 8)


@pytest.mark.parametrize(("source", "size"), [("ollama", "7B"), ("own", "7.2B")])
def test_who_counts_the_parameters(entry: Entry, source: Source, size: str) -> None:
    """Ollama has counted; another one's configuration may have a label."""
    own = replace(entry, source=source, config={"model_type": "7B"}, parent="base:latest")

    found = models.details(own, Summary(parameters="7.2B"))

    assert (found["parameter_size"], found["parent_model"]) == (size, "base:latest")
    assert models.details(own, Summary())["parameter_size"] == "7B"


def test_a_model_that_only_a_policy_knows() -> None:
    tag = models.tag("remote", None, Summary())

    assert tag["size"] == 0
    assert tag["modified_at"] == "1970-01-01T00:00:00Z"
    assert tag["details"]["families"] == []


def test_what_templates_allow(entry: Entry) -> None:
    header = read_header(entry.path)
    plain = models.abilities(entry, header)
    own = replace(entry, template="{{ tools }}<think></think>", template_file=Path("t.jinja"))
    go = replace(entry, template="{{ .Tools }}<think></think>")

    assert (plain.chat, plain.tools, plain.thinking) == (True, False, False)
    assert models.abilities(own, header).thinking
    assert models.capabilities(own, summary_of(header)) == ["completion", "tools", "thinking"]
    assert models.capabilities(entry, Summary()) == [], "its file cannot be read"
    assert models.abilities(go, header) == plain, "llama-server does not use a Go template"
    seeing = replace(entry, projector=Path("mmproj.gguf"))
    assert models.capabilities(seeing, summary_of(header)) == ["completion", "vision"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--mmproj", "/eye.gguf"), {"vision"}),
        (("--chat-template-file", "/t.jinja"), {"tools", "thinking"}),
        (("--chat-template=chatml",), {"tools", "thinking"}),
        (("--no-kv-offload",), set()),
    ],
)
def test_what_a_policys_arguments_add(entry: Entry, args: tuple[str, ...], words: set[str]) -> None:
    """Clients offer tools and pictures only to a model that is said to take them."""
    tag = models.tag("m", entry, summary_of(read_header(entry.path)), args)

    assert set(tag["capabilities"]) == {"completion", *words}


@pytest.mark.parametrize(
    ("template", "thinks"),
    [
        ("Qwen-Qwen3-0.6B", True),
        ("openai-gpt-oss-120b", True),
        ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", True),
        ("mistralai-Ministral-3-14B-Reasoning-2512", True),
        ("meta-llama-Llama-3.1-8B-Instruct", False),
        ("mistralai-Mistral-Nemo-Instruct-2407", False),
        ("Qwen-Qwen2.5-7B-Instruct", False),
    ],
)
def test_who_thinks(entry: Entry, template: str, thinks: bool) -> None:
    header = read_header(model(layers=2, template=template))

    assert models.abilities(entry, header).thinking is thinks


def test_parameters() -> None:
    params = {"temperature": 0.5, "stop": ["a", "b"], "moe_cpu_layers": "auto"}

    assert models.parameters(params).splitlines() == [
        "temperature                    0.5",
        'stop                           "a"',
        'stop                           "b"',
        'moe_cpu_layers                 "auto"',
    ]


def test_tensors(entry: Entry) -> None:
    listed = models.tensors(read_header(entry.path))

    assert {"name": "output_norm.weight", "type": "F32", "shape": [256]} in listed


def test_long_arrays_are_null(entry: Entry) -> None:
    short = models.model_info(read_header(entry.path))
    full = models.model_info(read_header(entry.path, keep=1 << 20))

    assert short["tokenizer.ggml.tokens"] is None
    assert len(full["tokenizer.ggml.tokens"]) > 1000
    assert list(short) == sorted(short)
    assert short.keys() == full.keys()


def test_arrays_that_are_kept_are_shown(entry: Entry) -> None:
    """Ollama leaves out what has more than 1024 elements."""
    tags = tuple(f"tag{number}" for number in range(20))
    header = replace(
        read_header(entry.path), metadata={"general.tags": tags}, array_lengths={"general.tags": 20}
    )

    assert models.model_info(header)["general.tags"] == list(tags)


def of_32_bits(value: float) -> float:
    (found,) = struct.unpack("<f", struct.pack("<f", value))
    return float(found)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (of_32_bits(1e-6), 1e-6),
        (of_32_bits(0.1), 0.1),
        (of_32_bits(123.456), 123.456),
        (1000000.0, 1000000),
        (-0.5, -0.5),
        (1 / 3, 1 / 3),  # with 64 bits
        (1e300, 1e300),
        (math.inf, math.inf),
        (True, True),
        ((of_32_bits(0.7), 2.0), [0.7, 2]),
    ],
)
def test_numbers_are_shown_as_they_were_written(entry: Entry, value: Any, shown: Any) -> None:
    header = replace(read_header(entry.path), metadata={"x": value}, array_lengths={})

    assert repr(models.model_info(header)["x"]) == repr(int(1e300) if shown == 1e300 else shown)
