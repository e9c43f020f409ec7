"""Models that foreign programs serve, through the whole proxy: llama-server as it is, and with
ik_llama.cpp's command line."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support import ik_llama_server
from tests.support.commands import LLAMA_SERVER
from tests.support.guard import until
from tests.support.llama import program
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy
from tests.support.serving import pid_of

pytestmark = pytest.mark.llama

LAYERS = 4
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "seed": 1}
# As docs/policies.md has it, with what would be too much for a tiny model left out.
IK_LLAMA = (
    *(sys.executable, str(ik_llama_server.__file__), "-m", "{model}", "--port", "{port}"),
    *("--alias", "{name}", "-c", "{ctx}", "-np", "{parallel}", "-ngl", "99", "-t", "1"),
    *("-fmoe", "-rtr", "-amb", "512", "-mla", "3"),
    *("-ot", r"blk\.({moe_cpu_layers_regex})\.ffn_.*_exps\.weight=CPU"),
)
COMMANDS = {"llama.cpp": LLAMA_SERVER, "ik_llama.cpp": IK_LLAMA}


@asynccontextmanager
async def served(folder: Path, command: tuple[str, ...], **more: Any) -> AsyncIterator[Proxy]:
    usual = {"path": model(layers=LAYERS), "ctx": 512, "parallel": 1, "engine": "command"}
    table = {
        **usual,
        "command": list(command),
        "env": {"REAL_SERVER": program("llama-server")},
        **more,
    }
    async with proxy(folder, policies({"m": table})) as there:
        yield there


def arguments(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


@pytest.mark.parametrize("server", COMMANDS)
async def test_it_answers_in_each_protocol(server: str, tmp_path: Path) -> None:
    async with served(tmp_path, COMMANDS[server], moe_cpu_layers=2) as there:
        whole = await there.post("/v1/chat/completions", CHAT)
        async with there.session.post(
            "/v1/chat/completions", json=CHAT | {"stream": True}
        ) as answer:
            lines = [line async for line in answer.content if line.startswith(b"data: ")]
        anthropic = await there.post("/v1/messages", CHAT)
        ollama = await there.post("/api/chat", CHAT | {"stream": False})

        assert whole["choices"][0]["message"]["content"]
        assert (len(lines) > 2, lines[-1].strip()) == (True, b"data: [DONE]")
        assert anthropic["type"] == "message"
        assert ollama["done"] is True
        assert len(there.app.services.pool.backends()) == 1


async def test_a_split_reaches_it_as_a_regular_expression(tmp_path: Path) -> None:
    async with served(tmp_path, IK_LLAMA, moe_cpu_layers=2) as there:
        await there.post("/v1/chat/completions", CHAT)
        first = await there.backend("m")
        assert first["moe_cpu_layers"] == 2
        assert r"blk\.(0|1)\.ffn_.*_exps\.weight=CPU" in arguments(first["pid"])

        async with there.session.post(
            "/v1/chat/completions", json=CHAT | {"moe_cpu_layers": 0}
        ) as answer:
            assert answer.headers["X-Moe-Proxy-Moe-Cpu-Layers"] == "0"
        second = await there.until_ready(moe_cpu_layers=0)

        assert r"blk\.()\.ffn_.*_exps\.weight=CPU" in arguments(second["pid"])


async def test_a_flag_that_it_does_not_know_is_told(tmp_path: Path) -> None:
    async with served(tmp_path, IK_LLAMA, args=["--kv-unified"]) as there:
        said = await there.post("/v1/chat/completions", CHAT, status=500)

        assert "error: unknown argument: --kv-unified" in said["error"]["message"]


async def test_a_shell_script_around_it_ends_with_it(tmp_path: Path) -> None:
    """It goes on after its server, and is asked to end as the whole group is."""
    script = tmp_path / "serve.sh"
    script.write_text('#!/bin/sh\necho preparing\n"$@"\necho cleaning up\n')
    script.chmod(0o755)
    async with served(tmp_path, (str(script), *LLAMA_SERVER), ready_path="/v1/models") as there:
        await there.post("/v1/chat/completions", CHAT)
        (backend,) = there.app.services.pool.backends()
        group = backend.engine.pid or 0
        assert arguments(group)[1] == str(script)

        assert await there.app.services.pool.unload("m") == 1

        await until(lambda: not members(group), "nothing of it lives")


def members(group: int) -> list[str]:
    """The processes of a group, but for those that nobody has buried yet."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, of = file.read_text().rpartition(")")[2].split()[:3]
            found += [file.parent.name] if int(of) == group and state != "Z" else []
    return found


async def test_it_is_killed_while_it_answers(tmp_path: Path) -> None:
    async with served(tmp_path, IK_LLAMA, moe_cpu_layers=2, ctx=4096) as there:
        await there.post("/v1/chat/completions", CHAT)
        (old,) = there.app.services.pool.backends()
        long = CHAT | {"max_tokens": 300, "ignore_eos": True}
        asked = asyncio.ensure_future(there.post("/v1/chat/completions", long))
        await until(lambda: old.in_flight, "it has the request")
        os.kill(pid_of(old.engine), 9)

        await asked

        (new,) = there.app.services.pool.backends()
        assert new.generation == old.generation + 1
