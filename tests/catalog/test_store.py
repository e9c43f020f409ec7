import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.catalog.entry import Message
from proxy.catalog.local import Catalog
from proxy.catalog.store import Store, Stores, ollama_places

PREFIX = "application/vnd.ollama.image."


def put(root: Path, name: str, config: dict[str, Any] | bytes = b"{}", **layers: bytes) -> Path:
    """A model as Ollama writes it; returns its manifest."""
    blobs = root / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    entries = []
    written = config if isinstance(config, bytes) else json.dumps(config).encode()
    for kind, data in {"config": written, **layers}.items():
        digest = hashlib.sha256(data).hexdigest()
        (blobs / f"sha256-{digest}").write_bytes(data)
        entries.append(
            {"mediaType": PREFIX + kind, "digest": f"sha256:{digest}", "size": len(data)}
        )
    path = root / "manifests" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"schemaVersion": 2, "config": entries[0], "layers": entries[1:]}))
    return path


def names(catalog: Catalog) -> list[str]:
    return [entry.name for entry in catalog.list()]


def test_all_layers(tmp_path: Path) -> None:
    manifest = put(
        tmp_path,
        "registry.ollama.ai/library/qwen3/30b",
        {"model_family": "qwen3moe"},
        model=b"GGUF",
        projector=b"proj",
        adapter=b"lora",
        template=b"{{ .Prompt }}",
        system=b"Be brief.",
        params=b'{"moe_cpu_layers": 24, "stop": ["x"], "temperature": 0.6}',
        messages=b'[{"role": "user", "content": "Hi"}]',
        license=b"free",
    )

    (entry,) = Catalog([], {}, [Store(tmp_path, "ollama")]).list()

    assert entry.name == "qwen3:30b"
    assert entry.path.read_bytes() == b"GGUF"
    assert entry.projector is not None
    assert entry.projector.read_bytes() == b"proj"
    assert [path.read_bytes() for path in entry.adapters] == [b"lora"]
    assert (entry.template, entry.template_file) == ("{{ .Prompt }}", None)
    assert entry.system == "Be brief."
    assert entry.params == {"moe_cpu_layers": 24, "stop": ["x"], "temperature": 0.6}
    assert entry.messages == (Message("user", "Hi"),)
    assert entry.licenses == ("free",)
    assert entry.config == {"model_family": "qwen3moe"}
    assert entry.digest == hashlib.sha256(manifest.read_bytes()).hexdigest()
    assert entry.modified_at == manifest.stat().st_mtime
    assert entry.refusal is None
    assert hash(entry) == hash(replace(entry))


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("qwen3:30b", "qwen3:30b"),
        ("QWEN3:30B", "qwen3:30b"),
        ("library/qwen3:30b", "qwen3:30b"),
        ("registry.ollama.ai/library/qwen3:30b", "qwen3:30b"),
        ("qwen3", "qwen3:latest"),
        ("qwen3:latest", "qwen3:latest"),
        ("me/qwen3", "me/qwen3:latest"),
        ("hf.co/org/repo-gguf:q8_0", "hf.co/Org/Repo-GGUF:Q8_0"),
        ("org/repo-gguf:Q8_0", "hf.co/Org/Repo-GGUF:Q8_0"),
        ("qwen3:8b", None),
        ("30b", None),
    ],
)
def test_names(asked: str, answer: str | None, tmp_path: Path) -> None:
    for tag in ("30b", "latest"):
        put(tmp_path, f"registry.ollama.ai/library/qwen3/{tag}", model=b"GGUF")
    put(tmp_path, "registry.ollama.ai/me/qwen3/latest", model=b"GGUF")
    put(tmp_path, "hf.co/Org/Repo-GGUF/Q8_0", model=b"GGUF")

    entry = Catalog([], {}, [Store(tmp_path, "ollama")]).find(asked)

    assert (entry.name if entry else None) == answer


def test_the_first_place_counts(tmp_path: Path) -> None:
    for place, data in (("own", b"GGUF1"), ("ollama", b"GGUF2")):
        put(tmp_path / place, "registry.ollama.ai/library/m/latest", model=data)
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "m.gguf").write_bytes(b"GGUF3")
    (folder / "n.gguf").write_bytes(b"GGUF4")
    stores = [Store(tmp_path / "own", "own"), Store(tmp_path / "ollama", "ollama")]

    catalog = Catalog([folder], {"n:latest": folder / "n.gguf"}, stores)

    assert names(catalog) == ["m:latest", "models/m", "n:latest"]
    entry = catalog.find("m")
    assert entry is not None
    assert entry.path.read_bytes() == b"GGUF1"


def test_changes_are_seen(tmp_path: Path) -> None:
    catalog = Catalog([], {}, [Store(tmp_path, "ollama")])
    manifest = put(tmp_path, "registry.ollama.ai/library/m/latest", model=b"GGUF")
    catalog.refresh()
    first = catalog.find("m")
    catalog.refresh()

    assert catalog.find("m") is first

    put(tmp_path, "registry.ollama.ai/library/m/latest", model=b"GGUF", system=b"new")
    catalog.refresh()
    entry = catalog.find("m")
    assert entry is not None
    assert entry.system == "new"

    entry.path.unlink()
    catalog.refresh()
    entry = catalog.find("m")
    assert entry is not None
    assert entry.refusal is not None
    assert "is missing" in entry.refusal

    manifest.unlink()
    catalog.refresh()
    assert catalog.list() == ()


@pytest.mark.parametrize(
    ("config", "layers", "reason"),
    [
        ({"remote_host": "https://ollama.com:443"}, {}, "none of it is on this machine"),
        ({"model_format": "safetensors"}, {"tensor": b"x"}, "only Ollama's own engine reads"),
        ({}, {"system": b"x"}, "no model among its blobs"),
    ],
)
def test_what_cannot_be_loaded_is_listed_with_the_reason(
    config: dict[str, Any], layers: dict[str, bytes], reason: str, tmp_path: Path
) -> None:
    put(tmp_path, "registry.ollama.ai/library/m/latest", config, **layers)

    (entry,) = Catalog([], {}, [Store(tmp_path, "ollama")]).list()

    assert entry.refusal is not None
    assert reason in entry.refusal


def test_what_is_broken_spoils_nothing(tmp_path: Path) -> None:
    put(tmp_path, "registry.ollama.ai/library/good/latest", model=b"GGUF")
    broken = put(tmp_path, "registry.ollama.ai/library/broken/latest", model=b"GGUF")
    broken.write_text("{")
    bad = put(tmp_path, "registry.ollama.ai/library/bad/latest", model=b"GGUF")
    bad.write_text(bad.read_text().replace("sha256:", "sha256:../../"))
    params = put(tmp_path, "registry.ollama.ai/library/params/latest", model=b"x", params=b"[1]")

    catalog = Catalog([], {}, [Store(tmp_path, "ollama"), Store(tmp_path / "nowhere", "own")])

    assert names(catalog) == ["good:latest"]
    assert catalog.problems.keys() == {str(broken), str(bad), str(params)}


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 20_000,
        b'{"layers": ' + b"[" * 20_000,
        b'{"other": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b'{"config": "\xff"}',
        b'{"layers": 5}',
        b'{"layers": [{"mediaType": "x", "digest": "sha256:../..", "size": 1}]}',
        b'{"layers": [{"mediaType": "x", "digest": "sha256:%s", "size": -1}]}' % (b"0" * 64),
        b'{"layers": [{"mediaType": "x", "digest": "sha256:%s", "size": 1e18}]}' % (b"0" * 64),
        b'{"layers": [{"mediaType": "x", "digest": "sha256:%s", "size": 1, "name": "a\\u0000"}]}'
        % (b"0" * 64),
        b'{"layers": [{"mediaType": "x", "digest": "sha256:%s", "size": 1, "name": "%s"}]}'
        % (b"0" * 64, b"n" * 300),
        b"x" * ((4 << 20) + 1),
    ],
)
def test_a_manifest_that_is_none_spoils_nothing(text: bytes, tmp_path: Path) -> None:
    put(tmp_path, "registry.ollama.ai/library/good/latest", model=b"GGUF")
    bad = put(tmp_path, "registry.ollama.ai/library/bad/latest", model=b"GGUF")
    bad.write_bytes(text)

    catalog = Catalog([], {}, [Store(tmp_path, "ollama")])

    assert names(catalog) == ["good:latest"]
    assert catalog.problems.keys() == {str(bad)}


def test_what_lies_among_manifests_spoils_nothing(tmp_path: Path) -> None:
    put(tmp_path, "registry.ollama.ai/library/good/latest", model=b"GGUF")
    library = tmp_path / "manifests/registry.ollama.ai/library"
    os.mkfifo(library / "good" / "pipe")
    (library / "good" / "gone").symlink_to("nowhere")
    (library / "good" / "loop").symlink_to("loop")
    (library / "good" / "folder").mkdir()
    (library / "loop").symlink_to("loop")
    (library / os.fsdecode(b"b\xffd")).mkdir()
    (library / os.fsdecode(b"b\xffd") / "latest").write_text("{}")
    for depth in ("", "registry.ollama.ai", "registry.ollama.ai/library"):
        for number in range(60):
            (tmp_path / "manifests" / depth / f"circle{number}").symlink_to(".")

    catalog = Catalog([], {}, [Store(tmp_path, "ollama")])

    assert names(catalog) == ["good:latest"]
    assert all(where.isprintable() for where in catalog.problems)
    json.dumps(dict(catalog.problems)).encode()


def test_where_ollama_keeps_its_models(tmp_path: Path) -> None:
    assert tmp_path / ".ollama/models" not in ollama_places(tmp_path)

    put(tmp_path / ".ollama/models", "registry.ollama.ai/library/m/latest", model=b"GGUF")

    assert ollama_places(tmp_path)[0] == tmp_path / ".ollama/models"


def test_stores_that_stay_keep_what_they_know(tmp_path: Path) -> None:
    theirs = tmp_path / ".ollama/models"
    put(theirs, "registry.ollama.ai/library/m/latest", model=b"GGUF")
    stores = Stores(tmp_path)

    own, ollama = stores.at(tmp_path / "state", None, ollama=True)[:2]

    assert (own.root, own.source) == (tmp_path / "state", "own")
    assert (ollama.root, ollama.source) == (theirs, "ollama")
    assert stores.at(tmp_path / "state", theirs, ollama=True) == (own, ollama)
    assert stores.at(tmp_path / "state", None, ollama=False) == (own,)
    assert [s.root for s in stores.at(theirs, theirs, ollama=True)] == [theirs]
