"""How long a list of 1,000 models takes: after a start that knows nothing, and after one that does;
and what they add to the start of a proxy and to `/api/tags`.

    python -m bench.catalogue [--models 1000] [--rounds 7] [--cold 3] [--json FILE]

Half of them are files in a folder, half are models in a store like Ollama's; each has a header with
a vocabulary of 150,000 words, and no weights.
"""

import argparse
import asyncio
import hashlib
import json
import tempfile
import time
from pathlib import Path

import aiohttp

from bench._options import count, parsed, result_file
from bench._report import figure, table
from bench._tell import more_text, spread, tell
from proxy.catalog.local import Catalog
from proxy.catalog.store import Store
from proxy.demo.gguf_writer import TensorSpec, write_model
from tests.support.policies import policies
from tests.support.serving import serving

WORDS = 150_000
LISTS = 10
NONE, NEW, KNOWN = "no models", "them, for the first time", "them, and its cache"
MEDIA = "application/vnd.ollama.image."


def lists(root: Path, cache: Path, rounds: int, models: int) -> dict[str, list[float]]:
    """Seconds until all models are known, with a cache of theirs."""
    seen: dict[str, list[float]] = {"at a start, with the cache": [], "again": []}
    for _ in range(rounds):
        started = time.perf_counter()
        catalog = Catalog([root / "models"], {}, [Store(root / "store", "ollama")], cache=cache)
        catalog.summaries()
        seen["at a start, with the cache"].append(time.perf_counter() - started)
        started = time.perf_counter()
        catalog.refresh()
        catalog.summaries()
        seen["again"].append(time.perf_counter() - started)
        assert len(catalog.list()) == models
    return seen


async def proxies(
    root: Path, rounds: int, cold: int, models: int
) -> tuple[dict[str, list[float]], dict[str, list[float]], Path]:
    """Seconds from a proxy's start to its first list of models, and of each list after that, by
    side; and a cache that one of them has made."""
    starts: dict[str, list[float]] = {side: [] for side in (NONE, NEW, KNOWN)}
    tags: dict[str, list[float]] = {side: [] for side in starts}
    known = root / "home-0"

    async def start(side: str, home: Path) -> None:
        home.mkdir(exist_ok=True)
        dirs: dict[str, object] = {"state": home / "state"}
        if side != NONE:
            dirs |= {"dirs": [root / "models"], "ollama_dir": root / "store", "ollama": True}
        file = home / "policies.toml"
        file.write_text(policies({}, catalog=dirs))
        started = time.perf_counter()
        async with serving(home, "--port", "0", "--policies", str(file)) as process:
            url = await process.url()
            async with aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(None)) as session:
                count = await tagged(session)
                starts[side].append(time.perf_counter() - started)
                assert count == (0 if side == NONE else models), count
                for _ in range(LISTS):
                    started = time.perf_counter()
                    await tagged(session)
                    tags[side].append(time.perf_counter() - started)

    for number in range(cold):
        await start(NEW, root / f"home-{number}")
    for number in range(rounds):
        sides = [(NONE, root / "home-none"), (KNOWN, known)]
        for side, home in sides if number % 2 else reversed(sides):
            await start(side, home)
    return starts, tags, known / "state" / "headers.json"


async def tagged(session: aiohttp.ClientSession) -> int:
    async with session.get("/api/tags") as answer:
        return len((await answer.json())["models"])


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=count(), default=1000)
    parser.add_argument("--rounds", type=count(), default=7)
    parser.add_argument("--cold", type=count(0), default=3, help="rounds without a cache")
    parser.add_argument("--json", type=result_file)
    arguments = parsed(parser)
    models, rounds = arguments.models, arguments.rounds
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make(root, models)
        starts, tags, cache = asyncio.run(proxies(root, rounds, arguments.cold, models))
        seen = lists(root, cache, rounds, models)
    rows = []
    for side, times in starts.items():
        # Only what took turns can be told apart.
        turns = side == KNOWN
        more = more_text(times, starts[NONE], 1000) if turns else ""
        answers = figure(tags[side]).text(1000, 1)
        rows.append([side, spread(times, 1000), more, answers])
    head = ("a proxy with", "from its start to a first list, ms", "more", "a list after that, ms")
    tell(
        {"catalogue": {"models": models, "lists": seen, "starts": starts, "tags": tags}},
        f"{models} models: a proxy is started and asked for `/api/tags`.",
        table(head, rows),
        f"Listing {models} models within the process.",
        table(("", "ms"), [[name, figure(times).text(1000, 1)] for name, times in seen.items()]),
        file=arguments.json,
    )


if __name__ == "__main__":
    main()
