"""Requests that do not say which model they mean."""

import json
from pathlib import Path

import aiohttp
import pytest

from proxy.app import Running
from tests.api.conftest import ALIAS, MODEL
from tests.support.extras import projector
from tests.support.models import model
from tests.support.policies import policies as made
from tests.support.proxy import Proxy
from tests.support.proxy import proxy as proxied

pytestmark = pytest.mark.llama
TALK = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


async def test_where_there_is_one_model_it_is_meant(client: aiohttp.ClientSession) -> None:
    for path, body in (
        ("/v1/chat/completions", TALK),
        ("/completion", {"prompt": "hi", "n_predict": 2}),
        ("/v1/messages", TALK),
        ("/tokenize", {"content": "hi", "model": None}),
    ):
        async with client.post(path, json=body) as answer:
            assert answer.status == 200, (path, await answer.text())
    for path in ("/props", "/slots", "/lora-adapters"):
        async with client.get(path) as answer:
            assert answer.status == 200
            length = len(await answer.read())
            assert answer.headers["X-Moe-Proxy-Backend"] == "b1"
        for query in ("", f"?model={ALIAS}"):
            async with client.head(path + query) as answer:
                assert (answer.status, await answer.read()) == (200, b"")
                # Its numbers change.
                assert abs(int(answer.headers.get("Content-Length", length)) - length) < 100


async def test_where_one_of_several_is_loaded_it_is_meant(tmp_path: Path) -> None:
    small = {"path": model(layers=2), "ctx": 512}
    text = made({"a": small, "b": {"path": model(layers=4), "ctx": 512}})
    async with proxied(tmp_path, text) as asked:
        told = await asked.post("/v1/chat/completions", TALK, status=400)
        assert told["error"]["message"] == '"model" is missing; there is a, b'
        assert told["error"]["param"] == "model"
        async with asked.session.get("/props") as answer:
            assert answer.status == 400
            assert "there is a, b" in await answer.text()

        await asked.post("/admin/models/b/load")

        assert (await asked.post("/v1/chat/completions", TALK))["model"] == "b"
        assert (await asked.get("/props"))["model_path"].endswith(model(layers=4).name)

        await asked.post("/admin/models/a/load")
        await asked.post("/v1/chat/completions", TALK, status=400)
        assert (await asked.get("/props?model=a"))["model_path"].endswith(model(layers=2).name)


async def test_what_is_loaded_and_gone_is_not_meant(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (gone := folder / "gone.gguf").symlink_to(model(layers=2))
    text = made({"a": {"path": model(layers=4)}}, catalog={"dirs": [folder]}, defaults={"ctx": 512})
    async with proxied(tmp_path, text) as asked:
        await asked.post("/admin/models/gone/load")
        gone.unlink()
        await asked.app.services.dirs.look_again()

        assert (await asked.post("/v1/chat/completions", TALK))["model"] == "a"


@pytest.mark.parametrize("path", ["/v1/health", "/health"])
async def test_health_has_both_of_its_names(path: str, client: aiohttp.ClientSession) -> None:
    async with client.get(path) as answer:
        assert (answer.status, await answer.json()) == (200, {"status": "ok"})
    async with client.head(path) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("action", ["save", "restore", "erase"])
@pytest.mark.parametrize("slash", ["", "/"])
async def test_slots_are_the_proxys_alone(
    action: str, slash: str, proxy: Running, client: aiohttp.ClientSession
) -> None:
    """The proxy's own folder is behind it, in which others' conversations may be."""
    body = {"filename": "mine"}
    path = f"/slots/0{slash}?action={action}&model={ALIAS}"
    async with client.post(path, json=body) as answer:
        assert answer.status == 403
        assert "saved and restored by the proxy alone" in await answer.text()
    assert proxy.services.pool.backends() == []


async def test_with_a_folder_in_its_args_they_are_the_users(tmp_path: Path) -> None:
    (folder := tmp_path / "saved").mkdir()
    args = ["--slot-save-path", str(folder)]
    text = made({"m": {"path": model(layers=2), "ctx": 512, "args": args, "unsafe_args": True}})
    async with proxied(tmp_path, text) as asked:
        await asked.post("/completion", {"prompt": "once upon", "n_predict": 2, "id_slot": 1})

        saved = await asked.post("/slots/1?action=save", {"filename": "mine"})
        assert saved["n_saved"] > 0
        assert [file.name for file in folder.iterdir()] == ["mine"]
        assert (await asked.post("/slots/1?action=erase"))["n_erased"] > 0
        assert (await asked.post("/slots/1?action=restore", {"filename": "mine"}))["n_restored"] > 0

        # A name is a name, and no way to elsewhere.
        for name in ("../mine", "/tmp/mine", "a/b", "..", ""):
            await _refused(asked, "/slots/1?action=save", {"filename": name})
        await _refused(asked, "/slots/1?action=format", {})
        for path in ("/slots/x?action=save", "/slots/1/2", "/slots/..%2f1?action=save"):
            await asked.post(path, {"filename": "mine"}, status=404)
    assert [file.name for file in folder.iterdir()] == ["mine"]


async def _refused(asked: Proxy, path: str, body: object) -> None:
    async with asked.session.post(path, json=body) as answer:
        assert answer.status in (400, 500), await answer.text()
        assert "error" in await answer.json()


async def test_adapters_can_be_asked_for_and_set(client: aiohttp.ClientSession) -> None:
    async with client.post("/lora-adapters", json=[]) as answer:
        assert (answer.status, await answer.json()) == (200, {"success": True})
    async with client.post("/lora-adapters", json={}) as answer:
        assert answer.status == 400


def sound(**fields: str) -> aiohttp.FormData:
    form = aiohttp.FormData()
    form.add_field("file", b"RIFF\0\xff", filename="model", content_type="audio/wav")
    for name, value in fields.items():
        form.add_field(name, value)
    return form


async def test_sounds_go_to_the_model_that_their_form_names(tmp_path: Path) -> None:
    seer = tmp_path / "seer"
    seer.mkdir()
    (seer / "seer.gguf").write_bytes(model(layers=2).read_bytes())
    projector(seer / "mmproj.gguf")
    models: dict[str, dict[str, object]] = {
        "seer": {"path": seer / "seer.gguf", "ctx": 512},
        "deaf": {"path": model(layers=4)},
    }
    async with proxied(tmp_path, made(models)) as asked:
        for path in ("/v1/audio/transcriptions", "/audio/transcriptions/"):
            async with asked.session.post(path, data=sound(model="seer")) as answer:
                # It was asked: it sees, and does not hear.
                assert "does not support audio" in await answer.text()
                assert answer.headers["X-Moe-Proxy-Backend"] == "b1"
        for fields, says in (
            ({"model": "deaf"}, "does not take images or audio"),
            ({"model": ""}, "model is required"),
            ({"model": "seer", "grammar": "(" * 100_000}, "grammar"),
        ):
            form = sound(**fields)
            async with asked.session.post("/v1/audio/transcriptions", data=form) as answer:
                assert answer.status == 400
                assert says in json.loads(await answer.text())["error"]["message"]
        form = sound(grammar="(" * 100_000)
        async with asked.session.post(
            "/upstream/seer/v1/audio/transcriptions", data=form
        ) as answer:
            assert answer.status == 400
            assert "grammar" in await answer.text()
        await asked.post("/v1/audio/transcriptions", {"model": "seer"}, status=400)


async def test_the_aliases_of_a_model_are_listed_with_it(client: aiohttp.ClientSession) -> None:
    async with client.get("/v1/models") as answer:
        (entry,) = (await answer.json())["data"]
    assert (entry["id"], entry["aliases"]) == (MODEL, [ALIAS])


async def test_a_file_with_a_question_mark_in_its_name_can_be_asked(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("why?", "what?ctx=1"):
        (folder / f"{name}.gguf").write_bytes(model(layers=2).read_bytes())
    text = made({}, catalog={"dirs": [str(folder)], "ollama": False}, defaults={"ctx": 512})
    async with proxied(tmp_path, text) as asked:
        listed = [entry["id"] for entry in (await asked.get("/v1/models"))["data"]]
        assert sorted(listed) == ["what?ctx=1", "why?"]
        for name in listed:
            for asked_for in (name, f"{name}?moe_cpu_layers=1"):
                told = await asked.post("/v1/chat/completions", TALK | {"model": asked_for})
                assert told["model"] == name
            chat = TALK | {"model": name, "stream": False}
            assert (await asked.post("/api/chat", chat))["model"] == name
            await asked.post("/api/show", {"model": name})
            async with asked.session.get("/props", params={"model": name}) as answer:
                assert answer.status == 200
            quoted = name.replace("?", "%3F")
            assert await asked.get(f"/upstream/{quoted}/v1/models")
            await asked.post(f"/admin/models/{quoted}/load")
            await asked.post(f"/admin/models/{quoted}/unload")
