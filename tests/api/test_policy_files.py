"""Policy files over HTTP: what may not be changed there, and where all of it may."""

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.app import Running
from tests.api.conftest import MODEL
from tests.support.guard import until

pytestmark = pytest.mark.llama
FILE = "/admin/policies/policies.toml"
COMMAND = """
[models.evil]
engine = "command"
command = ["touch", "/nonexistent/{port}"]
"""
KEY = {"Authorization": "Bearer ours"}


async def put(client: aiohttp.ClientSession, text: str, **more: Any) -> tuple[int, Any]:
    async with client.put(FILE, data=text.encode(), **more) as answer:
        return answer.status, (await answer.json()).get("problems")


async def test_what_could_run_a_program_is_refused_with_its_place(
    client: aiohttp.ClientSession, policies: Path
) -> None:
    before = policies.read_text()
    line = len(before.splitlines()) + 3

    status, problems = await put(client, before + COMMAND)

    assert status == 403
    assert [(p["file"], p["line"], p["key"]) for p in problems] == [
        (str(policies), line, "models.evil.engine"),
        (str(policies), line + 1, "models.evil.command"),
    ]
    assert "server.remote_policies" in problems[0]["message"]
    assert policies.read_text() == before


async def test_what_stands_there_may_not_be_taken_out_but_all_else_edited(
    client: aiohttp.ClientSession, policies: Path
) -> None:
    before = policies.read_text()
    (path,) = [text for text in before.splitlines() if text.startswith("path = ")]

    status, problems = await put(client, before.replace(path, ""))
    assert (status, [p["key"] for p in problems]) == (403, [f'models."{MODEL}".path'])
    assert policies.read_text() == before

    assert await put(client, "# edited\n" + before) == (200, [])


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("remote_policies = true\n", 403),
        ('api_keys_file = "keys.txt"\n', 403),
        ('api_keys_file = "keys.txt"\nremote_policies = true\n', 200),
    ],
)
async def test_all_of_it_may_be_changed_only_with_keys_and_where_the_file_says_so(
    proxy: Running, client: aiohttp.ClientSession, policies: Path, server: str, expected: int
) -> None:
    (policies.parent / "keys.txt").write_text("ours\n")
    policies.write_text(policies.read_text().replace("[server]\n", "[server]\n" + server))
    await until(lambda: proxy.services.policies.generation == 2, "it holds")

    status, _ = await put(client, policies.read_text() + COMMAND, headers=KEY)

    assert status == expected
    assert ("models.evil" in policies.read_text()) is (expected == 200)


async def test_what_somebody_else_saved_meanwhile_is_not_replaced(
    client: aiohttp.ClientSession, policies: Path
) -> None:
    before = policies.read_text()
    async with client.get(FILE) as answer:
        seen = answer.headers["ETag"]
    async with client.put(FILE, data=f"# one\n{before}", headers={"If-Match": seen}) as answer:
        assert answer.status == 200
        newer = answer.headers["ETag"]

    async with client.put(FILE, data=f"# two\n{before}", headers={"If-Match": seen}) as answer:
        assert answer.status == 412
        assert (await answer.json())["error"]["code"] == "changed_meanwhile"
    assert policies.read_text() == f"# one\n{before}"

    assert await put(client, f"# two\n{before}", headers={"If-Match": newer}) == (200, [])
    assert await put(client, f"# three\n{before}", headers={"If-Match": "*"}) == (200, [])
    assert await put(client, before) == (200, [])
