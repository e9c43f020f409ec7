"""What a registry may send: nothing of it keeps other models from anything."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from proxy.catalog.local import Catalog
from proxy.catalog.store import Store
from proxy.errors import BadRequest, ModelNotFound
from proxy.hub import huggingface
from proxy.hub.hub import Hub
from proxy.hub.progress import PullFailed
from tests.hub import servers
from tests.hub.conftest import MakeGguf
from tests.hub.test_pull import blobs, pulled

DEEP = b"[" * 20_000 + b"]" * 20_000


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("params", b'{"stop": %s}' % DEEP),
        ("params", b"\xff"),
        ("messages", DEEP),
        ("messages", b"{}"),
    ],
)
async def test_a_model_that_cannot_be_listed_is_not_installed(
    kind: str,
    data: bytes,
    hub: Hub,
    catalog: Catalog,
    server: servers.Hub,
    gguf: MakeGguf,
    tmp_path: Path,
) -> None:
    server.add_model("library/bad:1b", [("model", gguf(1)), (kind, data)], {})
    server.add_model("library/good:1b", [("model", gguf(1))], {})

    with pytest.raises(PullFailed, match="bad:1b cannot be used: its "):
        await pulled(hub, f"{server.host}/library/bad:1b")

    assert catalog.list() == ()
    assert catalog.problems == {}
    assert blobs(tmp_path) == set()
    await pulled(hub, f"{server.host}/library/good:1b")
    assert len(catalog.list()) == 1


HEX = "0" * 64
PREFIX = "application/vnd.ollama.image."


def manifest(*layers: tuple[str, str, object]) -> bytes:
    """A manifest with these layers: the end of the media type, the digest, the size."""
    told = [{"mediaType": PREFIX + kind, "digest": d, "size": size} for kind, d, size in layers]
    return json.dumps({"schemaVersion": 2, "layers": told}).encode()


@pytest.mark.parametrize(
    "answer",
    [
        b"<html><body>Please log in</body></html>",
        b"{}",
        b"[]",
        b"null",
        b'{"errors": [{"code": "DENIED"}]}',
        b'{"schemaVersion": 2, "layers": []}',
        manifest(("params", f"sha256:{HEX}", 2)),
        manifest(("model", "sha256:../../../etc/passwd", 2)),
        manifest(("model", f"sha512:{HEX}", 2)),
        manifest(("model", "", 2)),
        manifest(("model", f"sha256:{HEX}", -1)),
        manifest(("model", f"sha256:{HEX}", 10**30)),
        manifest(("model", f"sha256:{HEX}", "2")),
        manifest(("model", f"sha256:{HEX}", 1 << 49)),
        manifest(("model", f"sha256:{HEX}", 2), ("params", f"sha256:{HEX[1:]}1", 1 << 30)),
        manifest(*[("model", f"sha256:{HEX}", 2)] * 3000),
        b'{"layers": %s}' % DEEP,
        b"{" + b" " * (5 << 20) + b"}",
    ],
)
async def test_an_answer_that_is_no_model_installs_nothing(
    answer: bytes, hub: Hub, catalog: Catalog, server: servers.Hub, tmp_path: Path
) -> None:
    server.manifests["library/bad:1b"] = answer

    with pytest.raises(PullFailed):
        await pulled(hub, f"{server.host}/library/bad:1b")

    assert catalog.list() == ()
    assert not [p for p in (tmp_path / "state").rglob("*") if p.is_file()]
    assert server.asked.keys() == {"manifest"}


@pytest.mark.parametrize(
    "lfs", [{"sha256": "../../x", "size": 5}, {"sha256": HEX, "size": 1 << 60}]
)
async def test_a_repository_that_tells_nonsense_installs_nothing(
    lfs: dict[str, object],
    hub: Hub,
    server: servers.Hub,
    gguf: MakeGguf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = huggingface.File("m-Q8_0.gguf", f"sha256:{lfs['sha256']}", int(str(lfs["size"])))
    monkeypatch.setattr(huggingface, "list_files", lambda _: ("main", [file]))

    with pytest.raises(PullFailed, match="m-Q8_0"):
        await pulled(hub, "hf.co/org/repo")

    assert not [p for p in (tmp_path / "state").rglob("*") if p.is_file()]


async def test_what_another_store_has_needs_no_room(
    hub: Hub,
    catalog: Catalog,
    server: servers.Hub,
    gguf: MakeGguf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = gguf(1)
    server.add_model("library/tiny:1b", [("model", data)], {})
    blob = tmp_path / "ollama" / "blobs" / servers.digest(data).replace(":", "-")
    blob.parent.mkdir(parents=True)
    blob.write_bytes(data)
    catalog.use([], {}, [*catalog.places.stores, Store(tmp_path / "ollama", "ollama")])
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=1000, f_frsize=1))

    await pulled(hub, f"{server.host}/library/tiny:1b")

    assert len(catalog.list()) == 1


async def test_a_broken_model_can_be_deleted(
    hub: Hub, catalog: Catalog, server: servers.Hub, gguf: MakeGguf, tmp_path: Path
) -> None:
    server.add_model("library/tiny:1b", [("model", gguf(1))], {})
    name = f"{server.host}/library/tiny:1b"
    await pulled(hub, name)
    (manifest,) = (p for p in (tmp_path / "state" / "manifests").rglob("*") if p.is_file())
    manifest.write_text("{")
    catalog.refresh()
    assert catalog.list() == ()
    assert catalog.problems

    await hub.delete(name)

    assert catalog.problems == {}
    for other in (name, "never/was:there"):
        with pytest.raises(ModelNotFound):
            await hub.delete(other)
    with pytest.raises(BadRequest, match="is invalid"):
        await hub.delete("../../x")
