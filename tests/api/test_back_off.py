"""A model that cannot start: who asks is told why and when to come again, and it is not started as
often as clients ask. Real workers, and a file that is none."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.guard import until
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy

pytestmark = pytest.mark.llama
CHAT: Any = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
# The wait after so many is far longer than any machine takes for a test.
TIMES = 9


@pytest.fixture
async def broken(tmp_path: Path) -> AsyncIterator[Proxy]:
    (tmp_path / "m.gguf").write_bytes(b"GGUF but not really")
    table = {"path": tmp_path / "m.gguf", "ctx": 512, "aliases": ["other"]}
    async with proxy(tmp_path, policies({"m": table})) as server:
        for _ in range(TIMES):
            await server.post("/admin/models/m/load", status=500)
        yield server


async def backends(server: Proxy) -> list[dict[str, Any]]:
    return list((await server.get("/admin/state"))["backends"])


def starts(server: Proxy) -> int:
    return sum(e.kind == "backend_starting" for e in server.app.services.events.since(0))


async def test_the_operator_has_it_tried_each_time_and_the_state_tells_of_it(
    broken: Proxy,
) -> None:
    (backend,) = await backends(broken)

    assert starts(broken) == TIMES
    assert (backend["state"], backend["failures"]) == ("gone", TIMES)
    assert backend["retry_at"].endswith("+00:00")
    assert "ended while loading" in backend["last_error"]


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("/v1/chat/completions", ("error", "message")),
        ("/v1/messages", ("error", "message")),
        ("/api/chat", ("error",)),
        ("/v1/embeddings", ("error", "message")),
    ],
)
async def test_requests_are_refused_in_their_protocols_shape_without_a_start(
    broken: Proxy, path: str, where: tuple[str, ...]
) -> None:
    if path == "/v1/embeddings":  # another mode is another load, which fails by itself first
        await broken.post(path, {"model": "m", "input": "a"}, status=500)
    before = starts(broken)

    async with broken.session.post(path, json=CHAT | {"input": "a"}) as answer:
        body = await answer.json()
        told = body
        for key in where:
            told = told[key]
        assert answer.status == 503, told
        assert int(answer.headers["Retry-After"]) >= 1
    assert "is tried again in" in told
    assert "ended while loading" in told, "the last words of the process"
    assert starts(broken) == before


async def test_a_new_file_is_loaded_at_once(broken: Proxy, tmp_path: Path) -> None:
    await broken.post("/v1/chat/completions", CHAT, status=503)
    new = tmp_path / "new"
    shutil.copyfile(model(layers=4), new)
    new.replace(tmp_path / "m.gguf")

    await broken.post("/v1/chat/completions", CHAT)

    (backend,) = await backends(broken)
    assert (backend["state"], backend["failures"], backend["retry_at"]) == ("ready", 0, None)


async def test_an_edit_of_how_it_is_loaded_forgets_it_and_another_one_does_not(
    broken: Proxy, tmp_path: Path
) -> None:
    table: Any = {"path": tmp_path / "m.gguf", "ctx": 512, "aliases": ["other"]}
    await broken.apply(policies({"m": table | {"params": {"temperature": 0.0}}}))
    assert len(await backends(broken)) == 1

    await broken.apply(policies({"m": table | {"ctx": 256}}))
    await until(lambda: not broken.app.services.pool.backends(), "it is not listed any more")
    await broken.apply(policies({"m": table}))

    await broken.post("/v1/chat/completions", CHAT, status=500)
    assert (await backends(broken))[0]["failures"] == 1


@pytest.mark.parametrize("path", ["/admin/models/m/unload", "/admin/models/other/unload", "GET"])
async def test_unloading_it_strikes_it_off(broken: Proxy, path: str) -> None:
    if path == "GET":
        async with broken.session.get("/unload") as answer:
            assert answer.status == 200
    else:
        assert await broken.post(path) == {"unloaded": 0}

    assert await backends(broken) == []
    await broken.post("/v1/chat/completions", CHAT, status=500)
