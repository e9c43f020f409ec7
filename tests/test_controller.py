"""Who decides where experts are, on real workers with a device."""

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

from proxy.controller import Controller
from tests.support.llama import rpc_server
from tests.support.models import model
from tests.support.proxy import proxy

POLICIES = """
[devices]
rpc = ["{rpc}"]
[engine]
threads = 1
[defaults]
moe_cpu_layers = "full"
ctx = 512
parallel = 1
[models.m]
path = "{path}"
"""
BODY = {"model": "m", "prompt": "the quick brown fox", "max_tokens": 1}


async def test_the_operator_is_not_stopped_by_a_backend_that_ends_meanwhile(tmp_path: Path) -> None:
    async with rpc_server() as rpc, rpc_server() as other:
        policies = POLICIES.format(rpc=rpc, path=model(layers=4))
        async with proxy(tmp_path, policies) as served:
            pool, controller = served.app.services.pool, served.app.services.splits
            assert isinstance(controller, Controller)
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
            assert controller.asked(first.id) == 1
            assert first.engine.known().moe_cpu_layers == 1
