"""Room for those that are about to be loaded, on real workers with real devices."""

from pathlib import Path

import pytest

from tests.support.llama import rpc_server
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import proxy

pytestmark = pytest.mark.llama

BODY = {"prompt": "the quick brown fox", "max_tokens": 1}


async def test_what_it_takes_may_be_unknown(tmp_path: Path) -> None:
    """That nobody can estimate it says nothing of whether it can be loaded: the engine does."""
    usual = {"path": model(), "ctx": 512, "parallel": 1}
    models = {"m": usual, "odd": usual | {"args": ["--cache-type-k", "odd"]}}
    async with rpc_server() as rpc:
        async with proxy(tmp_path, policies(models, devices={"rpc": [rpc]})) as served:
            await served.post("/v1/completions", BODY | {"model": "m"})

            async with served.session.post("/v1/completions", json=BODY | {"model": "odd"}) as said:
                message = (await said.json())["error"]["message"]
            assert "Unsupported cache type: odd" in message
