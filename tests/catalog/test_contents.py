"""One model whose small blobs are broken is one model less, and the reason is told."""

import json
import os
from pathlib import Path

import pytest

from proxy.catalog.entry import Message
from proxy.catalog.local import Catalog
from proxy.catalog.store import Store
from tests.catalog.test_store import names, put

DEEP = b"[" * 20_000 + b"]" * 20_000
BAD = "registry.ollama.ai/library/bad/latest"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with one good model."""
    put(tmp_path, "registry.ollama.ai/library/good/latest", model=b"GGUF")
    return tmp_path


def opened(store: Path) -> Catalog:
    """A catalogue as a new process has it."""
    return Catalog([], {}, [Store(store, "ollama")], cache=store / "state" / "headers.json")


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("params", b'{"x": %s}' % DEEP),
        ("params", DEEP),
        ("params", b'{"stop": [["x"]]}'),
        ("params", b'{"other": {"a": 1}}'),
        ("params", b'{"num_ctx": 1%s}' % (b"0" * 30)),
        ("params", b'{"seed": 1%s}' % (b"0" * 400)),
        ("params", b'{"temperature": "hot"}'),
        ("params", b'{"temperature": 1e999}'),
        ("params", b'{"stop": "\xff"}'),
        ("params", b"5"),
        ("messages", DEEP),
        ("messages", b'[{"content": %s}]' % DEEP),
        ("messages", b'{"role": "user"}'),
        ("messages", b'[{"role": 5}]'),
        ("config", b'{"x": %s}' % DEEP),
        ("config", b"[]"),
        ("config", b'{"model_format": "\xff"}'),
        ("system", bytes((16 << 20) + 1)),
    ],
)
def test_it_is_one_model_less(kind: str, data: bytes, store: Path) -> None:
    manifest = put(store, BAD, model=b"GGUF", **{kind: data})

    for catalog in (opened(store), opened(store)):
        assert names(catalog) == ["good:latest"]
        assert catalog.problems.keys() == {str(manifest)}


def test_what_nobody_looks_at_does_no_harm(store: Path) -> None:
    config = {"model_format": 5, "model_families": [["x"]], "rootfs": {"type": ["layers"]}}
    put(store, BAD, config, model=b"GGUF", messages=b'[{"content": null, "images": [1]}]',
        params=b'{"own": "x", "stop": null, "seed": -1}')  # fmt: skip

    entry = opened(store).find("bad")

    assert entry is not None
    assert entry.config == {}
    assert entry.messages == (Message("", ""),)
    assert entry.params == {"own": "x", "seed": -1}


def test_texts_that_are_long_only_together_are_too_long(store: Path) -> None:
    manifest = put(store, BAD, model=b"GGUF", license=b"x" * (1 << 20))
    told = json.loads(manifest.read_bytes())
    told["layers"] += told["layers"][-1:] * 16
    manifest.write_text(json.dumps(told))

    catalog = opened(store)

    assert names(catalog) == ["good:latest"]
    assert "longer than those of any real model" in catalog.problems[str(manifest)]


@pytest.mark.parametrize("kind", ["params", "config", "system", "license", "template"])
def test_a_pipe_among_the_blobs_keeps_nobody_waiting(kind: str, store: Path) -> None:
    data = b'{"seed": 1234}'
    manifest = put(store, BAD, model=b"GGUF", **{kind: data})
    (blob,) = (path for path in (store / "blobs").iterdir() if path.read_bytes() == data)
    blob.unlink()
    os.mkfifo(blob)

    catalog = opened(store)

    assert names(catalog) == ["good:latest"]
    assert "is no regular file" in catalog.problems[str(manifest)]


def test_a_pipe_as_the_model_is_no_model(store: Path) -> None:
    put(store, BAD, model=b"PIPE")
    (blob,) = (path for path in (store / "blobs").iterdir() if path.read_bytes() == b"PIPE")
    blob.unlink()
    os.mkfifo(blob)
    catalog = opened(store)

    entry = catalog.find("bad")

    assert entry is not None
    assert entry.refusal is not None
    blob.unlink()
    blob.write_bytes(b"PIPE")
    catalog.refresh()
    entry = catalog.find("bad")
    assert entry is not None
    assert entry.refusal is None
