"""How long a list of 500 models takes: after a start that knows nothing, and after one that does.

Half of them are files in a folder, half are models in a store like Ollama's; each has a header with
a vocabulary of 150,000 words, and no weights.
"""

import argparse
import hashlib
import json
import tempfile
import time
from pathlib import Path

from proxy.catalog.local import Catalog
from proxy.catalog.store import Store
from proxy.demo.gguf_writer import TensorSpec, write_model

WORDS = 150_000
MEDIA = "application/vnd.ollama.image."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=500)
    parser.add_argument("--repeat", type=int, default=5, help="the best of so many is printed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make(root, arguments.models)
        cold_s, warm_s, again_s = [], [], []
        for number in range(arguments.repeat):
            cache = root / f"cache-{number}" / "headers.json"
            catalog, seconds = listed(root, cache)
            cold_s.append(seconds)
            warm_s.append(listed(root, cache)[1])
            started = time.perf_counter()
            catalog.refresh()
            catalog.summaries()
            again_s.append(time.perf_counter() - started)
            assert len(catalog.list()) == arguments.models
    print(f"{arguments.models} models, best of {arguments.repeat}")
    print(f"  start, no cache of ours    {min(cold_s) * 1000:7.1f} ms   (1000 ms at most)")
    print(f"  start, with the cache      {min(warm_s) * 1000:7.1f} ms   (50 ms at most)")
    print(f"  list again while it runs   {min(again_s) * 1000:7.1f} ms")


def listed(root: Path, cache: Path) -> tuple[Catalog, float]:
    started = time.perf_counter()
    catalog = Catalog([root / "models"], {}, [Store(root / "store", "ollama")], cache=cache)
    catalog.summaries()
    return catalog, time.perf_counter() - started


def make(root: Path, count: int) -> None:
    folder = root / "models"
    folder.mkdir()
    head = {
        "general.name": "bench",
        "general.size_label": "30B-A3B",
        "general.file_type": 15,
        ".block_count": 48,
        ".context_length": 40960,
        "tokenizer.ggml.tokens": [f"word{number}" for number in range(WORDS)],
    }
    source = root / "source.gguf"
    write_model(source, "qwen3moe", metadata=head, tensors=[TensorSpec("a", (4, 64))])
    blobs = root / "store" / "blobs"
    blobs.mkdir(parents=True)
    for number in range(count):
        if number % 2:
            (folder / f"model-{number:03}-Q4_K_M.gguf").hardlink_to(source)
            continue
        digest = hashlib.sha256(str(number).encode()).hexdigest()
        (blobs / f"sha256-{digest}").hardlink_to(source)
        layers = [{"mediaType": MEDIA + "model", "digest": f"sha256:{digest}", "size": 1}]
        layers += [layer(blobs, "params", b'{"temperature": 0.6}'), layer(blobs, "system", b"Hi")]
        config = layer(blobs, "config", json.dumps({"number": number}).encode())
        manifest = root / "store/manifests/registry.ollama.ai/library" / f"model{number}" / "latest"
        manifest.parent.mkdir(parents=True)
        manifest.write_text(json.dumps({"schemaVersion": 2, "config": config, "layers": layers}))


def layer(blobs: Path, kind: str, data: bytes) -> dict[str, object]:
    digest = hashlib.sha256(data).hexdigest()
    (blobs / f"sha256-{digest}").write_bytes(data)
    return {"mediaType": MEDIA + kind, "digest": f"sha256:{digest}", "size": len(data)}


if __name__ == "__main__":
    main()
