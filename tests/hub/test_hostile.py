"""What a registry may send: nothing of it keeps other models from anything."""

from pathlib import Path

import pytest

from proxy.catalog.local import Catalog
from proxy.errors import ModelNotFound
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
    for other in (name, "never/was:there", "../../x"):
        with pytest.raises(ModelNotFound):
            await hub.delete(other)
