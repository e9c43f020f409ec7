"""A model's own server, as far as it is anybody's."""

from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from proxy.app import Running
from tests.api.conftest import MODEL
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import proxy as proxied

pytestmark = pytest.mark.llama
FILE = {"filename": "mine"}


@pytest.mark.parametrize("path", ["slots/0", "%73lots/0", "slots%2F0", "%u0073lots/0"])
@pytest.mark.parametrize("action", ["save", "restore", "erase"])
async def test_its_slots_are_the_proxys_alone(
    proxy: Running, client: aiohttp.ClientSession, path: str, action: str
) -> None:
    """The proxy's own folder is behind it, in which others' conversations may be."""
    url = URL(f"{proxy.url}/upstream/{MODEL}/{path}?action={action}", encoded=True)
    async with client.post(url, json=FILE) as answer:
        assert answer.status == 403
        assert "saved and restored by the proxy alone" in await answer.text()
    assert proxy.services.pool.backends() == []


async def test_they_can_be_looked_at(client: aiohttp.ClientSession) -> None:
    async with client.get(f"/upstream/{MODEL}/slots") as answer:
        assert len(await answer.json()) == 2


async def test_with_a_folder_in_its_args_they_are_the_users(tmp_path: Path) -> None:
    args = ["--slot-save-path", str(tmp_path)]
    text = policies({"m": {"path": model(layers=2), "ctx": 512, "args": args, "unsafe_args": True}})
    async with proxied(tmp_path, text) as up:
        await up.post("/completion", {"model": "m", "prompt": "once upon", "n_predict": 2})
        await up.post("/upstream/m/slots/3?action=save", FILE)

    assert (tmp_path / "mine").exists()
