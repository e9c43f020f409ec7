from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from proxy.catalog.local import Catalog
from proxy.catalog.store import Store
from proxy.demo.gguf_writer import TensorSpec, write_model
from proxy.hub import fetch
from proxy.hub.hub import Hub
from tests.hub import servers

MakeGguf = Callable[..., bytes]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other faster than on a real network."""
    monkeypatch.setattr(fetch, "BACKOFF_S", 0.01)
    monkeypatch.setattr(fetch, "REPORT_EVERY_S", 0.0)


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[servers.Hub]:
    for name in ("HTTP_PROXY", "http_proxy", "HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    async with servers.serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog([], {}, [Store(tmp_path / "state", "own")])


@pytest.fixture
async def hub(tmp_path: Path, catalog: Catalog) -> AsyncIterator[Hub]:
    hub = Hub(tmp_path / "state", catalog)
    yield hub
    await hub.close()


@pytest.fixture
def gguf(tmp_path: Path) -> MakeGguf:
    """Makes the bytes of a GGUF of about `size` bytes that differ by `seed`."""

    def make(seed: int = 0, size: int = 200_000, **metadata: object) -> bytes:
        path = tmp_path / "made.gguf"
        head = {"general.name": f"made {seed}", "general.file_type": 0, ".block_count": 2}
        tensors = [TensorSpec("blk.0.ffn_up.weight", (size // 4 // 64, 64), mean=0.0)]
        write_model(path, "qwen3", metadata=head | metadata, tensors=tensors, seed=seed)
        return path.read_bytes()

    return make
