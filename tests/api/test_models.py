"""Lists of models, as clients of all kinds read them."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from proxy.api import models
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import proxy


async def test_what_clients_look_for(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for name, shape, day in (("old", "qwen3moe", 2), ("new", "bert", 9), ("middle", "qwen3", 5)):
        file = folder / f"{name}.gguf"
        file.write_bytes(model(shape, layers=2).read_bytes())
        os.utime(file, (day * 86400, day * 86400))
    tables: dict[str, dict[str, Any]] = {
        "middle": {"ctx": 2048},
        "elsewhere": {"engine": "command", "command": ["server", "{port}"], "ctx": 777},
    }
    text = policies(tables, catalog={"dirs": [folder], "state": tmp_path / "state"})
    async with proxy(tmp_path, text) as asked:
        answer = await asked.get("/v1/models")
        one = await asked.get("/v1/models/new")

    names = ["new", "middle", "old", "elsewhere"]
    assert [entry["id"] for entry in answer["data"]] == names, "the newest first"
    assert (answer["object"], answer["has_more"]) == ("list", False)
    assert (answer["first_id"], answer["last_id"]) == (names[0], names[-1])
    found = {entry["id"]: entry for entry in answer["data"]}
    assert found["new"] == one
    # The embedder was trained for 512, the others for more than the default of 8192 asks for.
    contexts = {"new": 512, "middle": 2048, "old": 8192, "elsewhere": 777}
    for name, ctx in contexts.items():
        entry = found[name]
        assert (entry["context_length"], entry["max_model_len"]) == (ctx, ctx)
        assert entry["meta"]["n_ctx"] == ctx
        assert (entry["type"], entry["display_name"]) == ("model", name)
        assert entry["meta"]["mode"] == "generation"
    assert found["middle"]["meta"]["n_ctx_train"] > 2048
    assert found["elsewhere"]["meta"]["n_ctx_train"] is None
    assert found["new"]["created_at"] == "1970-01-10T00:00:00Z"
    words = {name: entry["capabilities"] for name, entry in found.items()}
    chats = ["completion"]
    assert words == {"new": ["embedding"], "middle": chats, "old": chats, "elsewhere": []}


async def test_without_models(tmp_path: Path) -> None:
    text = policies({}, catalog={"state": tmp_path / "state"})
    async with proxy(tmp_path, text) as asked:
        answer = await asked.get("/v1/models")

    ends = {"has_more": False, "first_id": None, "last_id": None}
    assert answer == {"object": "list", "data": [], **ends}


async def test_files_that_are_not_read_in_time_leave_the_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {"path": model(layers=2), "ctx": 512}
    text = policies({"tiny": table}, catalog={"state": tmp_path / "state"})
    done = threading.Event()
    try:
        async with proxy(tmp_path, text) as asked:
            monkeypatch.setattr(models, "SUMMARIES_S", 0.01)
            monkeypatch.setattr(asked.app.services.catalog, "summaries", done.wait)
            (entry,) = (await asked.get("/v1/models"))["data"]
    finally:
        done.set()

    assert (entry["id"], entry["context_length"], entry["capabilities"]) == ("tiny", 512, [])
