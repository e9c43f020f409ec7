"""What a node's proxy asks of its supervisor, over a Unix socket."""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from proxy.fleet.rpc import lending as module
from proxy.fleet.rpc.lending import Giver, Lender, lending
from proxy.fleet.rpc.peers import descendants
from proxy.fleet.rpc.words import Answer, Ask
from tests.support.guard import HANG_S, until
from tests.support.rpc_loan import (
    HERE,
    LocalLender,
    LocalLoan,
    greeted,
    rpc_servers,
    said_to,
    token,
)

pytestmark = pytest.mark.llama
MIB = 1 << 20


class Slow(LocalLender):
    """Never done with it."""

    cancelled = False

    async def lend(self, model: str, size_bytes: int, reserve_bytes: int) -> LocalLoan:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        raise AssertionError


class Broken(LocalLender):
    async def lend(self, model: str, size_bytes: int, reserve_bytes: int) -> LocalLoan:
        raise RuntimeError("a node is gone")


class Unreached(LocalLender):
    """What it has lent is behind a firewall."""

    async def lend(self, model: str, size_bytes: int, reserve_bytes: int) -> LocalLoan:
        with socket.create_server((HERE, 0)) as probe:
            nobody = probe.getsockname()[1]
        return LocalLoan([Giver(HERE, nobody, token(), size_bytes)], AsyncExitStack())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.fixture
def lender() -> LocalLender:
    return LocalLender([MIB, 3 * MIB])


@pytest.fixture
async def there(path: Path, lender: Lender) -> AsyncIterator[None]:
    async with lending(path, lender):
        yield


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def asked(path: Path, words: bytes | Ask) -> tuple[Answer, Connection]:
    connection = await asyncio.open_unix_connection(path)
    line = words if isinstance(words, bytes) else msgspec.json.encode(words) + b"\n"
    connection[1].write(line)
    async with asyncio.timeout(HANG_S):
        said = await connection[0].readline()
    return msgspec.json.decode(said or b"{}", type=Answer), connection


def port_of(address: str) -> int:
    host, _, port = address.rpartition(":")
    assert host == HERE
    return int(port)


@pytest.mark.usefixtures("there")
async def test_what_is_lent_is_lent_until_the_connection_closes(
    path: Path, lender: LocalLender
) -> None:
    answer, (_, writer) = await asked(path, Ask("lend", "m", 2 * MIB))

    assert [share.size_bytes for share in answer.lent] == [MIB, MIB]
    devices = [await asyncio.open_connection(HERE, port_of(share.address)) for share in answer.lent]
    assert [await greeted(device) for device in devices] == [True, True]
    assert len(rpc_servers()) == 2
    writer.close()
    async with asyncio.timeout(HANG_S):
        assert [await device[0].read() for device in devices] == [b"", b""]
    for device in devices:
        device[1].close()
    await until(lambda: not rpc_servers(), "the servers have ended")

    async def closed() -> bool:
        try:
            return not await said_to(port_of(answer.lent[0].address), b"")
        except ConnectionRefusedError:
            return True

    await until(closed, "nobody listens any more")


@pytest.mark.usefixtures("there")
async def test_offers(path: Path) -> None:
    answer, (_, writer) = await asked(path, Ask("offers"))
    writer.close()

    assert answer == Answer(offers=(MIB, 3 * MIB))


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("words", [b"\n", b"{}\n", b'{"what": "all"}\n', b"x" * 70_000 + b"\n"])
async def test_who_says_something_else_is_hung_up_on(path: Path, words: bytes) -> None:
    answer, (reader, writer) = await asked(path, words)
    assert answer == Answer()
    try:
        assert await reader.read() == b""
    except ConnectionError:
        pass
    writer.close()


async def test_why_nothing_is_lent(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LENDS_WITHIN_S", 0.01)
    for made, why in (
        (LocalLender([]), "no other node has memory free"),
        (Broken([MIB]), "RuntimeError: a node is gone"),
        (Slow([MIB]), "the fleet has lent nothing within 0.01 s"),
    ):
        async with lending(path, made):
            answer, (_, writer) = await asked(path, Ask("lend", "m", MIB))
            writer.close()
        assert answer == Answer(error=why)


async def test_a_node_that_is_not_reached_is_told_of_before_a_backend_tries(path: Path) -> None:
    async with lending(path, Unreached([MIB])):
        answer, (_, writer) = await asked(path, Ask("lend", "m", MIB))
        writer.close()

    assert "the node that lends is not reached, 127.0.0.1 at port" in answer.error


SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from proxy.fleet.rpc.lending import lending
from tests.support.rpc_loan import LocalLender

async def main():
    async with lending(Path(sys.argv[1]), LocalLender([1 << 20])):
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_what_is_lent_ends_with_the_supervisor(path: Path, how: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SUPERVISOR, str(path)), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(HANG_S):
        assert await process.stdout.readline() == b"ready\n"
    answer, (reader, writer) = await asked(path, Ask("lend", "m", MIB))
    device = await asyncio.open_connection(HERE, port_of(answer.lent[0].address))
    assert await greeted(device)
    (server,) = rpc_servers()
    helpers = descendants(process.pid)

    process.send_signal(how)

    async with asyncio.timeout(HANG_S):
        await process.wait()
        assert await device[0].read() == b""
        assert await reader.read() == b""
    for each in (device[1], writer):
        each.close()
    gone = [Path(f"/proc/{pid}/exe") for pid in {server, *helpers}]
    await until(lambda: not any(each.exists() for each in gone), "all of it has ended")


async def test_who_hangs_up_before_it_is_lent_has_it_given_up(path: Path) -> None:
    slow = Slow([MIB])
    async with lending(path, slow):
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(msgspec.json.encode(Ask("lend", "m", MIB)) + b"\n")
        await writer.drain()
        writer.close()
        await until(lambda: slow.cancelled, "it is given up")


async def test_at_its_end_nothing_is_lent_any_more(path: Path, lender: LocalLender) -> None:
    async with lending(path, lender):
        answer, (reader, writer) = await asked(path, Ask("lend", "m", MIB))
        device = await asyncio.open_connection(HERE, port_of(answer.lent[0].address))
        assert await greeted(device)
        assert path.stat().st_mode & 0o77 == 0

    assert await device[0].read() == b""
    assert await reader.read() == b""
    for each in (device[1], writer):
        each.close()
    assert not path.exists()
    await until(lambda: not rpc_servers(), "the servers have ended")
