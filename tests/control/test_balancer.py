"""Who gets memory and who gives it, on real workers with real devices."""

import os
import signal
from pathlib import Path

import pytest

from proxy.engine.types import CPU
from tests.support.control import desired_of
from tests.support.guard import until
from tests.support.llama import rpc_server
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import proxy

pytestmark = pytest.mark.llama

LAYERS = 12
# About 13 MiB of experts a layer.
SIZES = {"width": 512, "expert_width": 512, "experts": 16}
BODY = {"model": "m", "prompt": "the quick brown fox", "max_tokens": 1}


async def test_what_could_not_be_had_is_not_tried_before_it_has_settled(tmp_path: Path) -> None:
    """A device that shows more room than it has."""
    m = {"path": model(sizes=SIZES), "moe_cpu_layers": "full", "ctx": 512, "parallel": 1}
    m |= {"repack": "off"}
    async with rpc_server() as rpc:
        devices: dict[str, object] = {"rpc": [rpc], "settle": "1h"}
        async with proxy(tmp_path, policies({"m": m}, devices=devices)) as served:
            desired = desired_of(served.app.services)
            await served.post("/v1/completions", BODY)
            (backend,) = served.app.services.pool.backends()
            room = 4 * backend.engine.known().layers[0].experts_bytes
            with rpc.no_more_than(room):
                for _ in range(2):
                    await served.post("/v1/completions", BODY | {"moe_cpu_layers": 0})
                (move,) = desired.history(backend)
                assert move["short_of_memory"] == "RPC0"
                assert 0 < move["layers"] < LAYERS

                await served.post("/v1/completions", BODY | {"moe_cpu_layers": LAYERS - 1})
                places = [layer.experts for layer in backend.engine.known().layers]
                assert places == [*[CPU] * (LAYERS - 1), "RPC0"], "what is there may leave"

                await served.post("/v1/completions", BODY | {"moe_cpu_layers": 2})
            served.edit(policies({"m": m}, devices=devices | {"settle": "0s"}))
            await until(lambda: backend.engine.known().moe_cpu_layers == 2, "it is tried again")


async def test_a_stopped_worker_hides_its_own_device_and_keeps_no_other_from_moving(
    tmp_path: Path,
) -> None:
    usual = {"path": model(layers=4), "moe_cpu_layers": "full", "ctx": 512, "parallel": 1}
    async with rpc_server() as first, rpc_server() as second:
        models = {"m": usual | {"rpc": [first]}, "n": usual | {"rpc": [second]}}
        async with proxy(tmp_path, policies(models)) as served:
            for name in models:
                await served.post("/v1/completions", BODY | {"model": name})
            m, n = served.app.services.pool.backends()
            stopped, device_of = await served.backend("m"), {}
            for backend in (m, n):
                (device_of[backend.id],) = {
                    x.attention_device for x in backend.engine.known().layers
                }
            os.kill(stopped["pid"], signal.SIGSTOP)
            try:
                latest = served.app.services.memory.latest
                await until(
                    lambda: latest().devices[device_of[m.id]].problem is not None, "it is missed"
                )
                seen_s = latest().devices[device_of[n.id]].at_s or 0.0

                await served.post("/v1/completions", BODY | {"model": "n", "moe_cpu_layers": 1})

                assert n.engine.known().moe_cpu_layers == 1
                await until(
                    lambda: (latest().devices[device_of[n.id]].at_s or 0.0) > seen_s, "it is read"
                )
                assert latest().devices[device_of[n.id]].problem is None
            finally:
                os.kill(stopped["pid"], signal.SIGCONT)
            await until(
                lambda: latest().devices[device_of[m.id]].problem is None, "it is there again"
            )
