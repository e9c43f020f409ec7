"""What a real worker cannot do for whoever has taken it over.

llama-server's own tools stand in for that: a shell, a file that is written, a page that is fetched.
Nobody gets them in a worker that is confined, so they are slipped in behind the policies here.
"""

import socket
import threading
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.engine.hosted import HostedEngine
from proxy.engine.types import Address
from proxy.worker import landlock
from proxy.worker.confine import level
from tests.support.hosted import hosted
from tests.support.llama import Client, rpc_server
from tests.support.models import model

pytestmark = pytest.mark.llama

TOOLS = ("--tools", "all", "--ui-mcp-proxy")
PROMPT = "the same text"


@pytest.fixture
def version() -> int:
    try:
        return landlock.version()
    except OSError as error:
        pytest.skip(f"Landlock: {error}")


def worker(**options: Any) -> AbstractAsyncContextManager[HostedEngine]:
    return hosted(model(layers=4), (), **options)


async def use(client: Client, tool: str, **params: str) -> str:
    return str(await client.post("/tools", {"tool": tool, "params": params}))


async def fetched(address: Address) -> bool:
    """Whether it connects to a server of this machine, which answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        came = threading.Event()

        def serve() -> None:
            try:
                server.accept()[0].close()
                came.set()
            except OSError:
                return

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            url = f"/cors-proxy?url=http://127.0.0.1:{server.getsockname()[1]}/x"
            connector = aiohttp.UnixConnector(address.socket or "")
            async with (
                aiohttp.ClientSession(address.origin, connector=connector) as http,
                http.get(url) as answer,
            ):
                await answer.read()
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
        return came.is_set()


async def test_it_runs_nothing_writes_nowhere_and_reaches_nobody(
    version: int, unchecked: None, tmp_path: Path
) -> None:
    async with worker(args=TOOLS) as engine, Client(engine.address) as client:
        assert engine.confined == level(version, programs=False)
        own = Path(engine.address.socket or "").parent

        shell = await use(client, "exec_shell_command", command=f"echo x > {tmp_path}/ran")
        await use(client, "write_file", path=f"{tmp_path}/written", content="x")
        await use(client, "write_file", path=f"{own}/written", content="x")

        assert list(tmp_path.iterdir()) == [], shell
        assert (own / "written").read_text() == "x"
        if version >= 4:
            assert not await fetched(engine.address)
        assert await client.text(PROMPT)


async def test_without_that_it_could(version: int, unchecked: None, tmp_path: Path) -> None:
    """So the test above would see it."""
    async with worker(args=TOOLS, confine=False) as engine, Client(engine.address) as client:
        assert engine.confined == "no: confine = false in its policy"

        await use(client, "exec_shell_command", command=f"echo x > {tmp_path}/ran")
        await use(client, "write_file", path=f"{tmp_path}/written", content="x")

        assert {path.name for path in tmp_path.iterdir()} == {"ran", "written"}
        assert await fetched(engine.address)


async def test_what_is_allowed_by_hand_is_not_kept_from_it(tmp_path: Path) -> None:
    said = tmp_path / "log"
    async with worker(args=("--log-file", str(said)), unsafe_args=True) as engine:
        assert engine.confined == "no: unsafe_args: what they need is not known"
    assert said.stat().st_size

    async with worker(args=("--jinja",), unsafe_args=True) as engine:
        assert not str(engine.confined).startswith("no: unsafe_args")


async def test_every_thread_is_confined_and_moves_go_on(version: int) -> None:
    """Threads that are older than the confinement are not in it, and would not have this mark."""
    async with rpc_server() as rpc, hosted(model(), (rpc,)) as engine:
        assert engine.confined == level(version, programs=False)
        async with Client(engine.address) as client:
            text = await client.text(PROMPT)
            assert (await engine.place(dict.fromkeys(range(12), "RPC0"))).layers == 12
            assert await client.text(PROMPT) == text
        threads = list(Path(f"/proc/{engine.pid}/task").iterdir())
        marks = [(thread / "status").read_text().count("NoNewPrivs:\t1") for thread in threads]

    assert len(threads) > 4
    assert set(marks) == {1}
