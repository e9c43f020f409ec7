"""What would come of a policy file, before it is saved."""

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.api.conftest import MODEL
from tests.support.guard import until
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import proxy as serve

pytestmark = pytest.mark.llama
FILE = "/admin/policies/policies.toml"


async def check(client: aiohttp.ClientSession, text: str) -> Any:
    async with client.post(f"{FILE}/check", data=text.encode()) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "policies.toml"  # as the proxy's fixture has it


@pytest.fixture
async def loaded(client: aiohttp.ClientSession, file: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HOME", "/nonexistent")  # the proxy's own, too
    async with client.post(f"/admin/models/{MODEL}/load") as answer:
        assert answer.status == 200
    return file.read_text()


@pytest.mark.parametrize(
    ("line", "fate", "keys"),
    [
        ("moe_cpu_layers = 2", "moves", ["moe_cpu_layers"]),
        ("parallel = 3", "restarts", ["parallel"]),
        ("keep_alive = '1h'", "stays", ["keep_alive"]),
        ("", "stays", []),
    ],
)
async def test_what_becomes_of_a_model(
    client: aiohttp.ClientSession, loaded: str, file: Path, line: str, fate: str, keys: Any
) -> None:
    table = f'[models."{MODEL}"]\n'
    found = await check(client, loaded.replace(table, f"{table}{line}\n"))

    assert found["problems"] == []
    (backend,) = found["effects"]["backends"]
    assert backend == {"id": "b1", "model": MODEL, "fate": fate, "keys": keys}
    assert found["effects"]["changes"] == bool(line)
    assert file.read_text() == loaded


async def test_what_changes_elsewhere(client: aiohttp.ClientSession, loaded: str) -> None:
    found = await check(client, loaded + "\n[models.other]\nctx = 4096\n")
    assert found["effects"]["models"] == ["other"]
    assert [backend["fate"] for backend in found["effects"]["backends"]] == ["stays"]

    found = await check(client, loaded + "\n[nodes.attic.defaults]\nctx = 4096\n")
    assert (found["effects"]["changes"], found["effects"]["nodes"]) == (True, ["attic"])
    assert not found["effects"]["defaults"]


async def test_mistakes_and_what_may_not_be_set(
    client: aiohttp.ClientSession, loaded: str, file: Path
) -> None:
    bad = await check(client, loaded + "\n[defaults]\nctx = 'long'\n")
    forbidden = await check(client, loaded + "\n[models.x]\nengine = 'command'\n")
    nonsense = await check(client, "[")

    assert bad["effects"] is None
    assert bad["problems"]
    assert "cannot be set over HTTP" in forbidden["problems"][0]["message"]
    assert nonsense["problems"][0]["line"] == 1
    assert file.read_text() == loaded


async def test_what_was_there_before_is_kept(tmp_path: Path) -> None:
    text = policies({"tiny": {"path": model(layers=4)}})
    async with serve(tmp_path, text) as server:
        server.app.services.policies.current.catalog.state.mkdir(parents=True, exist_ok=True)
        for number in range(2):
            async with server.session.put(FILE, data=f"{text}# {number}\n") as answer:
                assert answer.status == 200
            generation = number + 2
            await until(lambda: server.app.services.policies.generation == generation, "applied")  # noqa: B023
        newest, oldest = (await server.get(f"{FILE}/versions"))["versions"]
        for version, was in ((newest, f"{text}# 0\n"), (oldest, text)):
            async with server.session.get(f"{FILE}/versions/{version['id']}") as answer:
                assert await answer.text() == was
        async with server.session.get(f"{FILE}/versions/x") as answer:
            assert answer.status == 404
