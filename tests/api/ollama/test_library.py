"""Ollama's routes that change which models there are, over real sockets."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import ollama
import pytest

from proxy.app import Running, Settings, running
from tests.catalog.test_store import put
from tests.hub import servers
from tests.hub.servers import digest
from tests.support.guard import HANG_S
from tests.support.models import model
from tests.support.policies import policies


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[Running]:
    """A proxy with nothing but an empty store of ours."""
    policies = tmp_path / "policies.toml"
    policies.write_text(f"[catalog]\nstate = {json.dumps(str(tmp_path / 'state'))}\n")
    env = {"HOME": str(tmp_path)}
    async with running(Settings(port=0, policies=policies, env=env)) as proxy:
        yield proxy


@pytest.fixture
async def client(proxy: Running) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(proxy.url) as session:
        yield session


@pytest.fixture
async def server() -> AsyncIterator[servers.Hub]:
    async with servers.serving() as server:
        yield server


async def told(answer: aiohttp.ClientResponse) -> list[dict[str, Any]]:
    assert answer.content_type == "application/x-ndjson"
    return [json.loads(line) async for line in answer.content]


def names(proxy: Running) -> list[str]:
    return [entry.name for entry in proxy.services.catalog.list()]


async def test_pull(proxy: Running, client: aiohttp.ClientSession, server: servers.Hub) -> None:
    data = model("qwen3moe", layers=2).read_bytes()
    server.add_model("library/tiny:latest", [("model", data)], {"model_family": "qwen3moe"})
    name = f"{server.host}/library/tiny"

    async with client.post("/api/pull", json={"model": name}) as answer:
        assert answer.status == 200
        lines = await told(answer)

    assert lines[0] == {"status": "pulling manifest"}
    assert lines[-1] == {"status": "success"}
    blob = [line for line in lines if line.get("digest") == digest(data)][-1]
    assert blob == {
        "status": f"pulling {digest(data)[7:19]}",
        "digest": digest(data),
        "total": len(data),
        "completed": len(data),
    }
    assert names(proxy) == [f"{name}:latest"]

    async with client.post("/api/pull", json={"name": name, "stream": False}) as answer:
        assert (answer.status, await answer.json()) == (200, {"status": "success"})
    assert server.asked[digest(data)] == 1


@pytest.mark.parametrize("message", [{"role": "nobody", "content": "x"}, {"content": "x"}])
async def test_who_is_nobody_says_nothing(
    message: dict[str, Any], client: aiohttp.ClientSession
) -> None:
    body = {"model": "x", "from": "y", "messages": [message], "stream": False}
    async with client.post("/api/create", json=body) as answer:
        assert answer.status == 400
        assert "is no role" in (await answer.json())["error"]


async def test_pull_refusals(client: aiohttp.ClientSession, server: servers.Hub) -> None:
    missing = f"{server.host}/library/missing"

    async with client.post("/api/pull", json={"model": missing}) as answer:
        lines = await told(answer)
    assert answer.status == 200
    assert "file does not exist" in lines[-1]["error"]

    async with client.post("/api/pull", json={"model": missing, "stream": False}) as answer:
        assert answer.status == 500
        assert "file does not exist" in (await answer.json())["error"]
    async with client.post("/api/pull", json={"model": "a b"}) as answer:
        assert answer.status == 400
        assert "invalid model name" in (await answer.json())["error"]
    async with client.post("/api/pull") as answer:
        assert (answer.status, await answer.json()) == (400, {"error": "missing request body"})


async def test_what_is_served_already_is_pulled_at_once(
    tmp_path: Path, server: servers.Hub
) -> None:
    """Clients pull what they have just seen in the list: a file, and whatever a policy names."""
    folder = tmp_path / "models"
    folder.mkdir()
    for layers, name in enumerate(("Tiny 1-Q8_0.gguf", "named.gguf"), 1):
        (folder / name).symlink_to(model(layers=layers))
    models: dict[str, dict[str, Any]] = {
        "gpt-oss:20b": {"path": folder / "named.gguf", "aliases": ["gpt-4o"]},
        "fast": {"base": "gpt-oss:20b"},
        "elsewhere": {"engine": "command", "command": ["server", "{port}"]},
    }
    file = tmp_path / "policies.toml"
    file.write_text(policies(models, catalog={"dirs": [folder], "state": tmp_path / "state"}))
    settings = Settings(port=0, policies=file, env={"HOME": str(tmp_path)})
    async with running(settings) as proxy, aiohttp.ClientSession(proxy.url) as client:
        listed = names(proxy)
        assert listed == ["gpt-oss:20b", "Tiny 1-Q8_0"]
        for name in (*listed, "tiny 1", "gpt-4o", "fast", "elsewhere"):
            async with client.post("/api/pull", json={"model": name}) as answer:
                assert answer.status == 200
                lines = await told(answer)
            assert lines[0] == {"status": "pulling manifest"}, name
            assert lines[-1] == {"status": "success"}, name
        assert names(proxy) == listed


async def test_what_no_registry_has_stays_as_it_is(
    proxy: Running, client: aiohttp.ClientSession, server: servers.Hub
) -> None:
    """A model that was made here, by whatever name, is there as long as nobody has a newer one."""
    data = model(layers=2).read_bytes()
    await client.post(f"/api/blobs/{digest(data)}", data=io.BytesIO(data))
    name = f"{server.host}/library/mine"
    body = {"model": name, "files": {"a.gguf": digest(data)}, "system": "x", "stream": False}
    await client.post("/api/create", json=body)

    async with client.post("/api/pull", json={"model": name}) as answer:
        lines = await told(answer)

    assert lines[0] == {"status": "pulling manifest"}
    assert "mine:latest stays as it is: pull model manifest: file does not" in lines[-2]["status"]
    assert lines[-1] == {"status": "success"}
    server.add_model("library/mine:latest", [("model", data), ("system", b"newer")], {})
    async with client.post("/api/pull", json={"model": name, "stream": False}) as answer:
        assert await answer.json() == {"status": "success"}
    entry = proxy.services.catalog.find(name)
    assert entry is not None
    assert entry.system == "newer"


async def test_create_copy_delete(
    proxy: Running, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    data = model("qwen3moe", layers=2).read_bytes()
    path = f"/api/blobs/{digest(data)}"
    async with client.head(path) as answer:
        assert answer.status == 404
    async with client.post(path, data=io.BytesIO(data)) as answer:
        assert answer.status == 201
    async with client.post(path, data=io.BytesIO(data)) as answer:
        assert answer.status == 200
    async with client.head(path) as answer:
        assert answer.status == 200
    async with client.post(f"/api/blobs/sha256:{'0' * 64}", data=b"x") as answer:
        assert answer.status == 400
        assert "digest mismatch" in (await answer.json())["error"]

    body = {
        "model": "mario",
        "files": {"base.gguf": digest(data)},
        "system": "You are Mario.",
        "parameters": {"moe_cpu_layers": 1, "num_ctx": 512, "temperature": 0.5},
        "messages": [{"role": "user", "content": "Hi"}],
        "license": ["free"],
    }
    async with client.post("/api/create", json=body) as answer:
        lines = await told(answer)
    assert lines[0] == {"status": "parsing GGUF"}
    assert lines[-2:] == [{"status": "writing manifest"}, {"status": "success"}]

    found = proxy.services.resolver.resolve("mario")
    assert (found.policy.moe_cpu_layers, found.policy.ctx) == (1, 512)

    async with client.post("/api/copy", json={"source": "Mario", "destination": "luigi"}) as answer:
        assert (answer.status, await answer.read()) == (200, b"")
    async with client.delete("/api/delete", json={"model": "mario"}) as answer:
        assert (answer.status, await answer.read()) == (200, b"")
    assert names(proxy) == ["luigi:latest"]
    async with client.delete("/api/delete", json={"model": "mario"}) as answer:
        assert (answer.status, await answer.json()) == (404, {"error": "model 'mario' not found"})
    async with client.post("/api/copy", json={"source": "x", "destination": "y"}) as answer:
        assert answer.status == 404
    async with client.delete("/api/delete", json={"model": "luigi"}) as answer:
        assert answer.status == 200
    assert list((tmp_path / "state" / "blobs").iterdir()) == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"model": "m"}, "neither 'from' or 'files' was specified"),
        ({"model": "", "from": "x"}, "invalid model name"),
        ({"model": "m", "from": "x", "parameters": {"num_ctx": "many"}}, "a whole number"),
        ({"model": "m", "from": "x", "quantize": "Q9"}, "is no quantization"),
        ({"model": "m", "files": {"x.safetensors": "sha256:1"}}, "only GGUF files"),
    ],
)
async def test_create_refusals(
    body: dict[str, Any], message: str, client: aiohttp.ClientSession
) -> None:
    async with client.post("/api/create", json={**body, "stream": False}) as answer:
        assert answer.status == 400
        assert message in (await answer.json())["error"]


async def test_push_is_refused(client: aiohttp.ClientSession) -> None:
    async with client.post("/api/push", json={"model": "me/x"}) as answer:
        assert answer.status == 400
        assert "does not push" in (await answer.json())["error"]


async def test_ollamas_own_store_is_served_and_only_read(tmp_path: Path) -> None:
    put(
        tmp_path / ".ollama/models",
        "registry.ollama.ai/library/llama3/latest",
        model=model("qwen3moe", layers=2).read_bytes(),
        params=b'{"num_ctx": 1024}',
    )
    policies = tmp_path / "policies.toml"
    policies.write_text(f"[catalog]\nstate = {json.dumps(str(tmp_path / 'state'))}\n")
    settings = Settings(port=0, policies=policies, env={"HOME": str(tmp_path)})
    async with running(settings) as proxy, aiohttp.ClientSession(proxy.url) as client:
        async with client.get("/v1/models/llama3") as answer:
            found = await answer.json()
        assert (found["id"], found["meta"]["ctx"]) == ("llama3:latest", 1024)
        async with client.delete("/api/delete", json={"model": "llama3"}) as answer:
            assert answer.status == 409
            error = (await answer.json())["error"]
        root = tmp_path / ".ollama/models"
        assert f"Ollama's own store ({root})" in error
        # `ollama rm` alone is what has just asked.
        assert f"`OLLAMA_HOST=127.0.0.1:11435 OLLAMA_MODELS={root} ollama serve`" in error
        assert "`OLLAMA_HOST=127.0.0.1:11435 ollama rm llama3`" in error
        put(tmp_path / ".ollama/models", "registry.ollama.ai/library/new/1b", model=b"GGUF")
        async with client.get("/v1/models/new:1b") as answer:
            assert answer.status == 200


@pytest.mark.llama
async def test_a_model_that_was_made_answers(
    proxy: Running, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """With its own template and the split of its PARAMETER."""
    data = model("qwen3moe", layers=2).read_bytes()
    await client.post(f"/api/blobs/{digest(data)}", data=io.BytesIO(data))
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<mine>"
    body = {
        "model": "mario",
        "files": {"base.gguf": digest(data)},
        "template": template,
        "parameters": {"moe_cpu_layers": 1, "num_ctx": 512},
        "stream": False,
    }
    async with client.post("/api/create", json=body) as answer:
        assert (answer.status, await answer.json()) == (200, {"status": "success"})

    chat = {"model": "mario", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    async with client.post("/v1/chat/completions", json=chat) as answer:
        assert answer.status == 200, await answer.text()
        assert (await answer.json())["model"] == "mario:latest"
    async with client.post("/upstream/mario/apply-template", json=chat) as answer:
        assert (await answer.json())["prompt"] == "<user>Hi<mine>"
    (backend,) = proxy.services.pool.backends()
    assert backend.options.ctx == 512
    assert proxy.services.desired.split(backend) == 1


async def test_ollamas_own_client(proxy: Running, server: servers.Hub) -> None:
    data = model("qwen3moe", layers=2).read_bytes()
    server.add_model("library/tiny:latest", [("model", data)], {})
    client = ollama.AsyncClient(proxy.url)
    name = f"{server.host}/library/tiny"

    steps = [step async for step in await client.pull(name, stream=True)]
    assert (steps[0].status, steps[-1].status) == ("pulling manifest", "success")
    assert max(step.completed or 0 for step in steps) == len(data)
    made = await client.create("mine", from_=name, system="x", parameters={"moe_cpu_layers": 1})
    assert made.status == "success"
    assert (await client.copy("mine", "other")).status == "success"
    assert (await client.delete("mine")).status == "success"
    assert (await client.delete(name)).status == "success"
    assert names(proxy) == ["other:latest"]
    with pytest.raises(ollama.ResponseError, match="file does not exist"):
        await client.pull(name + "-not")
    with pytest.raises(ollama.ResponseError, match="not found") as e:
        await client.delete("mine")
    assert e.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="does not push"):
        await client.push("me/mine")
    await client.close()


async def test_what_is_made_after_an_edit_of_the_stores_place_is_seen(
    proxy: Running, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """The store's place is one for the whole of a run."""
    put(tmp_path / "state", "registry.ollama.ai/library/tiny/latest", model=model().read_bytes())
    await asyncio.to_thread(proxy.services.catalog.refresh)
    elsewhere = json.dumps(str(tmp_path / "elsewhere"))
    (tmp_path / "policies.toml").write_text(f"[catalog]\nstate = {elsewhere}\n")
    async with asyncio.timeout(HANG_S):
        while proxy.services.policies.generation == 1:
            await asyncio.sleep(0.01)

    async with client.post("/api/copy", json={"source": "tiny", "destination": "copy"}) as answer:
        assert answer.status == 200, await answer.text()

    assert names(proxy) == ["copy:latest", "tiny:latest"]
    async with client.get("/admin/state") as answer:
        policies = (await answer.json())["policies"]
    assert policies["waiting_for_restart"] == ["catalog.state"]
