"""The picture of everything that `/admin/state` gives."""

import asyncio
import os
from pathlib import Path

from proxy.api.admin_state import MOST_TOLD
from tests.support.guard import HANG_S
from tests.support.proxy import proxy


async def test_models_that_cannot_be_used_are_named_up_to_a_number(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    os.mkfifo(folder / "pipe.gguf")
    text = f'[catalog]\ndirs = ["{folder}"]\nollama = false\nstate = "{tmp_path}/s"\n'
    async with proxy(tmp_path, text) as asked, asyncio.timeout(HANG_S):
        assert await asked.get("/api/tags") == {"models": []}
        (broken,) = (await asked.get("/admin/state"))["unusable_models"]
        for number in range(MOST_TOLD):
            (folder / f"gone{number}.gguf").symlink_to("nowhere")
        await asyncio.to_thread(asked.app.services.catalog.refresh)
        told = (await asked.get("/admin/state"))["unusable_models"]

    assert broken["where"] == str(folder / "pipe.gguf")
    assert "no regular file" in broken["why"]
    assert len(told) == MOST_TOLD
