"""A model that somebody has pinned, and a newcomer that needs the same RPC server."""

from pathlib import Path

import pytest

from tests.support.guard import until
from tests.support.llama import rpc_server
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import proxy

pytestmark = pytest.mark.llama
WHY = "m is pinned and uses the same rpc server; unpin or unload it first"


async def test_the_plan_says_what_serving_does(tmp_path: Path) -> None:
    models = {name: {"path": model(layers=4, seed=seed)} for seed, name in enumerate(("m", "two"))}
    ask = {"model": "two", "prompt": "a", "max_tokens": 1}
    async with rpc_server() as rpc:
        text = policies(models, devices={"rpc": [rpc]}, defaults={"ctx": 512})
        async with proxy(tmp_path, text) as running:
            await running.post("/admin/models/m/load")
            await running.post("/admin/models/m/pin")
            await until(lambda: running.app.services.memory.latest().devices, "it is seen")

            assert (await running.get("/admin/models/two/plan"))["problems"] == [WHY]
            assert (await running.get("/admin/models/m/plan"))["problems"] == []
            refused = await running.post("/v1/completions", ask, status=409)
            assert refused["error"]["message"] == WHY

            await running.post("/admin/models/m/unpin")
            assert (await running.get("/admin/models/two/plan"))["problems"] == []
            await running.post("/v1/completions", ask)
