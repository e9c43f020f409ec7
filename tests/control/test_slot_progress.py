"""How far a worker's slots are, as its own llama-server tells while it answers."""

import asyncio
import json
from pathlib import Path

import pytest

from proxy.control.slot_progress import busy_backends, slots_progress
from tests.support.guard import HANG_S
from tests.support.models import model
from tests.support.proxy import proxy

pytestmark = pytest.mark.llama


async def test_a_worker_that_answers_tells_how_far_it_is(tmp_path: Path) -> None:
    policies = (
        "[engine]\nthreads = 1\n[catalog]\nollama = false\n"
        f"[models.m]\npath = {json.dumps(str(model(layers=4)))}\nctx = 4096\n"
    )
    body = {"model": "m", "prompt": "hi", "max_tokens": 3000, "ignore_eos": True, "stream": True}
    async with proxy(tmp_path, policies) as running:
        pool = running.app.services.pool
        read = slots_progress(pool)
        assert list(busy_backends(pool)) == []
        async with asyncio.timeout(HANG_S), running.session.post("/v1/completions", json=body) as a:
            await a.content.readany()
            (start,) = busy_backends(pool)
            while not (progress := await read(start)):
                await asyncio.sleep(0)

    (slot,) = progress.values()
    assert start == ("b1", 1)
    assert 0 < slot.tokens <= 3000
    assert await read(("b1", 2)) is None, "another start is another backend"
