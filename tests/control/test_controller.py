"""Who decides where experts are, on real workers with a device."""

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.commands import LLAMA_SERVER
from tests.support.control import controller_of, desired_of
from tests.support.llama import rpc_server
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import proxy

pytestmark = pytest.mark.llama

BODY = {"model": "m", "prompt": "the quick brown fox", "max_tokens": 1}


async def test_the_operator_is_not_stopped_by_a_backend_that_ends_meanwhile(tmp_path: Path) -> None:
    async with rpc_server() as rpc, rpc_server() as other:
        m = {"path": model(layers=4), "moe_cpu_layers": "full", "ctx": 512, "parallel": 1}
        async with proxy(tmp_path, policies({"m": m}, devices={"rpc": [rpc]})) as served:
            services = served.app.services
            pool, controller = services.pool, controller_of(services)
            await served.post("/v1/completions", BODY)
            (first,) = pool.backends()
            assert first.engine.pid
            second = await pool.load(replace(first.options, rpc=(other,)))
            # It cannot move anything, nor say so, until it is let go on.
            os.kill(first.engine.pid, signal.SIGSTOP)
            try:
                setting = asyncio.ensure_future(controller.operator("m", 1))
                await pool.unload(second.id)
            finally:
                os.kill(first.engine.pid, signal.SIGCONT)

            await setting
            assert desired_of(services).split(first) == 1
            assert first.engine.known().moe_cpu_layers == 1


async def test_where_a_foreign_server_has_its_experts_is_not_known(tmp_path: Path) -> None:
    split = ("--n-cpu-moe", "{moe_cpu_layers}")
    command = [part for part in LLAMA_SERVER if part not in split]
    for asked, argv in ((None, command), (3, [*command, *split])):
        m = {"path": model(layers=4), "engine": "command", "command": argv}
        async with (
            proxy(tmp_path, policies({"m": m | {"ctx": 512, "parallel": 1}})) as served,
            served.session.post("/v1/completions", json=BODY | {"moe_cpu_layers": asked}) as answer,
        ):
            assert answer.status == 200, await answer.text()
            told = answer.headers.get("X-Moe-Proxy-Moe-Cpu-Layers")
            assert told == (asked and str(asked))
            assert (await served.backend("m"))["moe_cpu_layers"] == asked
