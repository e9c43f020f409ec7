"""What was read of manifests outlives the process, and never longer than it is true."""

import json
import os
from pathlib import Path

import pytest

from proxy.catalog.local import Catalog
from proxy.catalog.store import Store
from tests.catalog.test_store import names, put

QWEN = "registry.ollama.ai/library/qwen3/30b"
LAYERS = {
    "model": b"GGUF",
    "projector": b"proj",
    "adapter": b"lora",
    "template": b"{{ messages[0].content }}",
    "system": b"Be brief.",
    "params": b'{"moe_cpu_layers": 24, "stop": ["x"], "temperature": 0.6}',
    "messages": b'[{"role": "user", "content": "Hi"}]',
    "license": b"free",
}


def opened(root: Path) -> Catalog:
    """A catalogue as a new process has it."""
    return Catalog([], {}, [Store(root, "ollama")], cache=root / "state" / "headers.json")


def test_an_unchanged_manifest_is_not_read_again(tmp_path: Path) -> None:
    manifest = put(tmp_path, QWEN, {"model_family": "qwen3moe"}, **LAYERS)
    first = opened(tmp_path)
    system = next(path for path in (tmp_path / "blobs").iterdir() if path.read_bytes()[:2] == b"Be")
    system.write_bytes(b"nobody looks here")

    assert opened(tmp_path).list() == first.list()
    (entry,) = opened(tmp_path).list()
    origin = opened(tmp_path).origin(entry)
    assert origin is not None
    assert origin[1].full == "registry.ollama.ai/library/qwen3:30b"

    manifest.write_text(manifest.read_text() + " ")
    (entry,) = opened(tmp_path).list()
    assert entry.system == "nobody looks here"


def test_new_and_removed_models_are_seen(tmp_path: Path) -> None:
    manifest = put(tmp_path, QWEN, model=b"GGUF")
    opened(tmp_path)
    put(tmp_path, "registry.ollama.ai/library/gemma3/4b", model=b"GGUF")
    manifest.unlink()

    assert names(opened(tmp_path)) == ["gemma3:4b"]
    assert names(opened(tmp_path)) == ["gemma3:4b"]


def test_a_blob_that_went_meanwhile_is_missed(tmp_path: Path) -> None:
    put(tmp_path, QWEN, model=b"GGUF")
    (entry,) = opened(tmp_path).list()
    entry.path.unlink()

    (entry,) = opened(tmp_path).list()
    assert "is missing" in (entry.refusal or "")


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{}",
        "[",
        '{"version": "0", "stores": {}}',
        "[" * 20_000,
        '{"stores": ' + '{"a":' * 20_000,
        '{"version": "\udcff"}',
        '{"version": 1e999}',
    ],
)
def test_a_file_that_is_of_no_use_is_written_anew(tmp_path: Path, damage: str) -> None:
    put(tmp_path, QWEN, model=b"GGUF")
    opened(tmp_path)
    file = tmp_path / "state" / "manifests.json"
    good = file.read_text()
    file.write_text(damage, errors="surrogateescape")
    (tmp_path / "state" / "headers.json").write_text(damage, errors="surrogateescape")

    assert names(opened(tmp_path)) == ["qwen3:30b"]
    assert json.loads(file.read_text()) == json.loads(good)


def test_a_pipe_in_its_place_keeps_nobody_waiting(tmp_path: Path) -> None:
    put(tmp_path, QWEN, model=b"GGUF")
    (tmp_path / "state").mkdir()
    for name in ("manifests.json", "headers.json"):
        os.mkfifo(tmp_path / "state" / name)

    catalog = opened(tmp_path)

    assert names(catalog) == ["qwen3:30b"]
    assert catalog.summaries().keys() == {"qwen3:30b"}


def test_what_somebody_wrote_into_it_cannot_end_a_scan(tmp_path: Path) -> None:
    """JSON that can be read and not be written again."""
    manifest = put(tmp_path, QWEN, model=b"GGUF")
    opened(tmp_path)
    file = tmp_path / "state" / "manifests.json"
    kept = json.loads(file.read_text())
    ((model,),) = (store.values() for store in kept["stores"].values())
    model["entry"]["params"] = {"seed": 10**30}
    file.write_text(json.dumps(kept))
    put(tmp_path, "registry.ollama.ai/library/other/latest", model=b"GGUF")

    assert names(opened(tmp_path)) == ["other:latest", "qwen3:30b"]
    assert manifest.exists()
