"""A proxy, as a process of its own, among files whose open would wait for ever: pipes stand for
those of a disk that is gone, wherever a file can be. Beside them a model that is none the worse."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.cli.main import main
from tests.catalog.test_store import put
from tests.support.guard import HANG_S
from tests.support.models import model
from tests.support.policies import policies
from tests.support.serving import Serving, serving

pytestmark = pytest.mark.llama

LIBRARY = "registry.ollama.ai/library"
ASKED = (
    "/api/show",
    "/api/chat",
    "/api/generate",
    "/v1/chat/completions",
    "/v1/messages",
    "/v1/embeddings",
    "/api/embed",
    "/v1/completions",
    "/api/pull",
    "/admin/models/{}/load",
)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home full of them; `m` and `store-good` are models."""
    dirs, store = tmp_path / "models", tmp_path / "ollama"
    whole = model(layers=4)
    for folder in ("", "eyes", "split", "folder.gguf", "folder.gguf/inside"):
        (dirs / folder).mkdir()
    os.mkfifo(dirs / "pipe.gguf")
    os.mkfifo(dirs / "mmproj-pipe-F16.gguf")
    shutil.copyfile(whole, dirs / "eyes/eyes.gguf")
    os.mkfifo(dirs / "eyes/mmproj-F16.gguf")
    shutil.copyfile(whole, dirs / "split/s-00001-of-00002.gguf")
    os.mkfifo(dirs / "split/s-00002-of-00002.gguf")
    (dirs / "device.gguf").symlink_to("/dev/zero")
    (dirs / "terminal.gguf").symlink_to("/dev/ptmx")
    for kind in ("model", "params", "template", "config", "projector", "adapter", "system"):
        layers = {"model": whole.read_bytes(), kind: f"PIPE {kind}".encode()}
        put(store, f"{LIBRARY}/{kind}/latest", **layers)
    for blob in (store / "blobs").iterdir():
        if blob.read_bytes().startswith(b"PIPE"):
            blob.unlink()
            os.mkfifo(blob)
    put(store, f"{LIBRARY}/good/latest", model=whole.read_bytes())
    os.mkfifo(store / "manifests" / LIBRARY / "good/pipe")
    os.mkfifo(store / "manifests" / LIBRARY / "pipe")
    state = tmp_path / ".local/share/moe-proxy"
    state.mkdir(parents=True)
    for name in ("manifests.json", "summaries.json", "speeds.json"):
        os.mkfifo(state / name)
    (tmp_path / "policies").mkdir()
    os.mkfifo(tmp_path / "policies/z.toml")
    os.mkfifo(tmp_path / "keys.txt")
    pipe = dirs / "pipe.gguf"
    models: dict[str, Any] = {
        "m": {"path": whole, "ctx": 512},
        "named": {"path": pipe},
        "missing": {"path": dirs / "nothing.gguf"},
        "folder": {"path": dirs / "folder.gguf"},
        "part": {"path": dirs / "split/s-00001-of-00002.gguf"},
        "command": {"path": pipe, "engine": "command", "command": ["cat", "{model}", "{port}"]},
    }
    catalog = {"dirs": [dirs], "ollama": True, "ollama_dir": store}
    (tmp_path / "p.toml").write_text(policies(models, catalog=catalog))
    with socket.socket(socket.AF_UNIX) as listener:
        with contextlib.chdir(tmp_path):  # the name of a socket may have 107 bytes
            listener.bind("models/socket.gguf")
        yield tmp_path


async def answered(proxy: Serving) -> None:
    """Every name is listed, shown and asked for, by every route, and each has an answer."""
    async with aiohttp.ClientSession(await proxy.url()) as session:

        async def ask(method: str, path: str, body: object = None) -> tuple[int, str]:
            try:
                async with asyncio.timeout(HANG_S):
                    async with session.request(method, path, json=body) as answer:
                        return answer.status, await answer.text()
            except TimeoutError:
                raise AssertionError(f"it hangs: {method} {path} {body}") from None

        status, text = await ask("GET", "/api/tags")
        listed = [entry["name"] for entry in json.loads(text)["models"]]
        assert status == 200
        assert {"m:latest", "good:latest", "eyes:latest"} <= set(listed)
        assert not {"pipe:latest", "socket:latest", "device:latest"} & set(listed), listed
        others = ("named", "pipe", "folder", "part", "command", "socket", "device", "good:pipe")
        asked = [
            ask("POST", path.format(name), {"model": name, "messages": [], "input": "hi"})
            for name in (*listed, *others)
            for path in ASKED
            if name not in ("m:latest", "good:latest", "eyes:latest")
        ]
        await asyncio.gather(*asked)
        for path in ("/api/tags", "/v1/models", "/api/ps", "/admin/state"):
            assert (await ask("GET", path))[0] == 200
        body = {"model": "m", "prompt": "hi", "max_tokens": 2}
        assert (await ask("POST", "/v1/completions", body))[0] == 200
        assert (await ask("POST", "/v1/completions", body | {"model": "eyes"}))[0] == 200


async def test_a_start_lists_requests_and_the_end(home: Path) -> None:
    arguments = ("--port", "0", "--policies", str(home / "p.toml"))
    async with serving(home, *arguments) as proxy:
        await answered(proxy)
        proxy.process.send_signal(signal.SIGTERM)
        assert await proxy.ended() == 0
        assert not proxy.folders()


@pytest.mark.parametrize("what", ["policies", "policies/z.toml"])
async def test_a_start_whose_policies_are_one_says_so(home: Path, what: str) -> None:
    async with serving(home, "--port", "0", "--policies", str(home / what)) as proxy:
        assert await proxy.ended() != 0
        assert "is no regular file" in "".join(proxy.lines)


async def test_keys_that_are_one_let_nobody_in_and_hang_nobody(home: Path) -> None:
    file = home / "k.toml"
    file.write_text(policies({}, server={"api_keys_file": str(home / "keys.txt")}))
    async with serving(home, "--port", "0", "--policies", str(file)) as proxy:
        async with aiohttp.ClientSession(await proxy.url()) as session:
            async with asyncio.timeout(HANG_S), session.get("/api/tags") as answer:
                assert answer.status == 401
        proxy.process.send_signal(signal.SIGTERM)
        assert await proxy.ended() == 0


@pytest.mark.parametrize("command", [("check",), ("plan", "named"), ("plan", "part")])
def test_commands_end(
    home: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MOE_PROXY_POLICIES", str(home / "p.toml"))
    monkeypatch.setattr("sys.argv", ["moe-proxy", *command])

    with pytest.raises(SystemExit):
        raise SystemExit(main([*command]))
