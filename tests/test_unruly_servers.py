"""Foreign servers that misbehave, each in its way, behind a real proxy: what a client sees, and
that the next one is answered. `tests/support/unruly_server.py` is the server."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.engine import command
from proxy.pool.state import Backend
from proxy.routing import router
from tests.support import unruly_server
from tests.support.guard import until
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
STREAM = BODY | {"stream": True}
# Long enough that no well-behaved server is taken to hang while the machine is busy.
SOON = {"hang_timeout": "3s", "load_timeout": "1m"}


@asynccontextmanager
async def served(folder: Path, how: str, **more: Any) -> AsyncIterator[Proxy]:
    (folder / "how").write_text(how)
    stub = (sys.executable, str(unruly_server.__file__), "--port", "{port}", "--how")
    model = {"engine": "command", "command": [*stub, str(folder / "how")], **SOON, **more}
    async with proxy(folder, policies({"m": model})) as there:
        yield there


@pytest.fixture(autouse=True)
def sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router, "DEATH_IS_KNOWN_S", 0.5)


def backend_of(there: Proxy) -> Backend:
    (backend,) = there.app.services.pool.backends()
    return backend


def states(number: int | None) -> list[str]:
    """What the processes of a group are at: Z is what nobody has buried yet."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = file.read_text().rpartition(")")[2].split()
            found += [fields[0]] if int(fields[2]) == number else []
    return found


def alive(number: int | None) -> bool:
    return any(state != "Z" for state in states(number))


async def is_well(there: Proxy) -> None:
    """The next request is answered, by another process, and it is the only one."""
    assert (await there.post(CHAT, BODY))["choices"][0]["message"]["content"] == "hi"
    pool = there.app.services.pool
    (backend,) = (b for b in pool.backends() if b.state != "gone")
    assert (backend.state, backend.in_flight, pool.queue_length) == ("ready", 0, 0)
    assert not (there.policies.parent / "how").exists()  # the order was for the one before


async def comes_up(there: Proxy) -> None:
    """Without waiting for its back-off, as who loads it by hand does."""
    await there.post(f"/admin/models/{BODY['model']}/load")
    await is_well(there)


# --- while it loads ---


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("exits", "it has to stay as long as its server does"),
        ("silent", "said nothing for 3 s, and is not ready: it takes no connections"),
        ("talks", "is not ready after"),
        ("loading", "said nothing for 3 s, and is not ready: it answers /health with status 503"),
        ("elsewhere", "it listens at port"),
        ("mute", "it has not answered /health"),
    ],
)
async def test_one_that_does_not_come_up(
    how: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "talks":
        monkeypatch.setattr(command, "TALKING_TIMES", 0.3)
    async with served(tmp_path, how, load_timeout="3s") as there:
        asked = asyncio.ensure_future(there.post(CHAT, BODY, status=500))
        await until(lambda: there.app.services.pool.backends(), "it begins")
        first = await until(lambda: backend_of(there).engine.pid, "it has a process")

        assert why in (await asked)["error"]["message"]

        assert not alive(first)
        await comes_up(there)


@pytest.mark.parametrize("path", ["/v1/messages", "/api/chat"])
async def test_that_it_does_not_come_up_is_told_in_each_protocol(path: str, tmp_path: Path) -> None:
    async with served(tmp_path, "exits") as there:
        said = await there.post(path, BODY | {"max_tokens": 9}, status=500)

        assert "ended while loading" in str(said["error"])
        assert isinstance(said["error"], str) == (path == "/api/chat")
        assert said.get("type") == ("error" if path == "/v1/messages" else None)
        await comes_up(there)


async def test_what_goes_into_the_background_is_refused_and_is_for_its_stop_command(
    tmp_path: Path,
) -> None:
    note = tmp_path / "pid"
    stop = ["sh", "-c", f"kill -9 $(cat {note})"]
    async with served(tmp_path, "daemonizes", stop_command=stop) as there:
        said = await there.post(CHAT, BODY, status=500)

        assert "not to start it in the background" in said["error"]["message"]
        await until(lambda: not alive(int(note.read_text())), "it is gone")
        await comes_up(there)


# --- before the first byte ---


@pytest.mark.parametrize("how", ["hangs", "hangs on requests", "head only", "refuses"])
@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "stream"])
async def test_who_has_not_a_byte_is_answered_by_another_process(
    how: str, body: dict[str, Any], tmp_path: Path
) -> None:
    async with served(tmp_path, how) as there:
        await there.post(CHAT, body)

        await is_well(there)


@pytest.mark.parametrize("how", ["closes", "garbage", "endless head"])
@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/api/chat"])
async def test_one_that_breaks_whatever_is_asked_is_given_up(
    how: str, path: str, tmp_path: Path
) -> None:
    """Not at once: what was asked may be to blame, and there may be others whom it answers."""
    async with served(tmp_path, how) as there:
        said = await there.post(path, BODY | {"max_tokens": 9}, status=502)

        assert "the engine went away" in json.dumps(said)
        first = backend_of(there)
        assert first.state == "ready"
        await is_well(there)
        assert backend_of(there) is not first


# --- in the middle ---


async def test_an_answer_of_another_kind_is_no_error_of_ours(tmp_path: Path) -> None:
    async with served(tmp_path, "nonsense") as there:
        said = await there.post("/api/embed", {"model": "m", "input": "hi"}, status=502)

        assert "the engine's answer made no sense: Expected `object`" in said["error"]


@pytest.mark.parametrize("how", ["stops in the middle", "broken chunks"])
async def test_who_is_in_the_middle_of_an_answer_gets_an_error(how: str, tmp_path: Path) -> None:
    async with served(tmp_path, how) as there:
        lines: list[bytes] = []
        async with there.session.post(CHAT, json=STREAM) as answer:
            with pytest.raises(aiohttp.ClientPayloadError):
                await read(answer, lines)

        assert lines[0].strip() == unruly_server.EVENT.strip()
        assert "error" in json.loads(lines[-1].removeprefix(b"data: "))
        if how == "stops in the middle":
            await is_well(there)


# --- while nobody asks ---


async def test_one_that_says_that_it_is_ill_is_ended(tmp_path: Path) -> None:
    async with served(tmp_path, "sick") as there:
        await there.post(CHAT, BODY)
        first = backend_of(there)

        await until(lambda: first.state == "gone", "it is ended")

        assert "has not answered the proxy" in (first.last_error or "")
        await is_well(there)


async def test_one_that_is_busy_may_put_us_off_as_long_as_it_answers(tmp_path: Path) -> None:
    """For twice as long as it may hang it says that it is ill, and streams."""
    async with served(tmp_path, "busy") as there:
        lines: list[bytes] = []
        async with there.session.post(CHAT, json=STREAM) as answer:
            await read(answer, lines)

        assert lines == [unruly_server.EVENT.replace(b"\n\n", b"\n")] * 22
        assert backend_of(there).state == "ready"


async def test_one_that_takes_no_connections_any_more_is_ended_soon(tmp_path: Path) -> None:
    """However long it may hang: nobody listens, so nobody will."""
    async with served(tmp_path, "refuses", hang_timeout="1h") as there:
        async with there.session.get("/upstream/m/health") as answer:
            assert answer.status == 200
        first = backend_of(there)
        # Past the proxy, which would notice at once.
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await there.session.post(f"{first.engine.address.origin}/x", json={})

        await until(lambda: first.state == "gone", "it is ended")

        assert "nobody can reach it any more" in (first.last_error or "")
        await is_well(there)


async def test_one_that_floods_its_log_serves_and_is_unloaded(tmp_path: Path) -> None:
    async with served(tmp_path, "floods") as there:
        for _ in range(3):
            await there.post(CHAT, BODY)
        pid = backend_of(there).engine.pid

        assert await there.app.services.pool.unload("m") == 1

        assert not alive(pid)
        await is_well(there)


@pytest.mark.parametrize("how", ["forks", "ignores SIGTERM"])
async def test_nothing_is_left_of_one_that_is_unloaded(how: str, tmp_path: Path) -> None:
    async with served(tmp_path, how) as there:
        there.app.services.pool._grace_s = 0.5
        await there.post(CHAT, BODY)
        group = backend_of(there).engine.pid
        assert alive(group)

        assert await there.app.services.pool.unload("m") == 1

        await until(lambda: not alive(group), "nothing of it lives")
        await is_well(there)


async def read(answer: aiohttp.ClientResponse, lines: list[bytes]) -> None:
    async for line in answer.content:
        lines += [line] if line.strip() else []
