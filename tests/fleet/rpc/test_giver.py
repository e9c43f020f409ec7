"""Who reaches a machine that lends its memory, and who does not."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.fleet.rpc import giver
from proxy.fleet.rpc.free import free_by_place
from proxy.fleet.rpc.held import RAM
from proxy.fleet.rpc.helper import Refused, begun, helper
from proxy.fleet.rpc.promises import Promises
from proxy.node.identity import certificates_of
from tests.support.guard import HANG_S, until
from tests.support.rpc_loan import (
    HELLO,
    HERE,
    certificate,
    greeted,
    parent,
    rpc_servers,
    said_to,
    token,
)

pytestmark = pytest.mark.llama


@pytest.fixture
def secret() -> str:
    return token()


@pytest.fixture
async def port(secret: str) -> AsyncIterator[int]:
    async with helper("giver", giver.Order(secret), ("--host", HERE)) as port:
        yield port


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def friend(port: int, secret: str) -> Connection:
    reader, writer = await asyncio.open_connection(HERE, port)
    writer.write(bytes.fromhex(secret))
    return reader, writer


async def test_who_has_no_token_gets_not_a_byte_and_starts_nothing(port: int, secret: str) -> None:
    right = bytes.fromhex(secret)
    tries = {
        "nothing": b"",
        "no token": HELLO,
        "half of it": right[:16],
        "another one": os.urandom(32) + HELLO,
        "one byte off": right[:-1] + bytes([right[-1] ^ 1]) + HELLO,
        "as text": secret.encode() + HELLO,
        "behind something": b"\n" + right + HELLO,
        "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    }

    async with asyncio.timeout(HANG_S):
        said = await asyncio.gather(*(said_to(port, words) for words in tries.values()))

    assert dict(zip(tries, said, strict=True)) == dict.fromkeys(tries, b"")
    assert rpc_servers() == []
    one = await friend(port, secret)
    assert await greeted(one)
    one[1].close()


async def test_strangers_by_the_hundred_take_nothing_from_a_friend(port: int, secret: str) -> None:
    silent = [await asyncio.open_connection(HERE, port) for _ in range(giver.MOST_STRANGERS * 2)]

    async def served() -> bool:
        one = await friend(port, secret)
        try:
            return await greeted(one)
        finally:
            one[1].close()

    # Each has the port for two seconds at most.
    await until(served, "a friend is let in")
    for _, writer in silent:
        writer.close()


async def test_each_connection_has_a_server_of_its_own_which_ends_with_it(
    port: int, secret: str
) -> None:
    first, second = [await friend(port, secret) for _ in range(2)]
    assert await greeted(first)
    assert await greeted(second)
    assert len(rpc_servers()) == 2

    first[1].close()
    await until(lambda: len(rpc_servers()) == 1, "the first one's server has ended")
    second[1].close()
    await until(lambda: not rpc_servers(), "the other one too")


async def test_a_stranger_on_the_machine_finds_no_server(port: int, secret: str) -> None:
    """There is nothing to connect to: it does not listen."""
    one = await friend(port, secret)
    assert await greeted(one)
    (server,) = rpc_servers()

    sockets = {f"socket:[{inode}]" for inode in _listening()}
    its_own = {os.readlink(file) for file in Path(f"/proc/{server}/fd").iterdir()}

    assert not its_own & sockets
    assert sockets & {os.readlink(file) for file in Path(f"/proc/{parent(server)}/fd").iterdir()}
    one[1].close()


def _listening() -> list[str]:
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    lines = [line.split() for table in tables for line in table]
    return [fields[9] for fields in lines if fields[3] == "0A"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, None])
async def test_what_it_lends_ends_with_it_however_it_ends(
    secret: str, how: signal.Signals | None
) -> None:
    order = giver.Order(secret)
    async with helper("giver", order, ("--host", HERE)) as port:
        one = await friend(port, secret)
        assert await greeted(one)
        (server,) = rpc_servers()
        if how is not None:
            os.kill(parent(server), how)
            async with asyncio.timeout(HANG_S):
                assert await one[0].read() == b""
    await until(lambda: not Path(f"/proc/{server}/exe").exists(), "it has ended")
    one[1].close()


async def test_a_server_that_dies_is_the_end_of_its_connection(port: int, secret: str) -> None:
    one = await friend(port, secret)
    assert await greeted(one)
    os.kill(rpc_servers()[0], signal.SIGKILL)

    async with asyncio.timeout(HANG_S):
        assert await one[0].read() == b""
    one[1].close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
async def test_with_tls_only_the_clusters_own_are_spoken_with(tmp_path: Path, secret: str) -> None:
    ours, theirs = certificate(tmp_path, "ours"), certificate(tmp_path, "theirs")
    env = os.environ | ours
    async with helper("giver", giver.Order(secret), ("--host", HERE), env) as port:
        for variables in (ours, theirs):
            certificates = certificates_of(variables)
            assert certificates is not None
            try:
                reader, writer = await asyncio.open_connection(
                    HERE, port, ssl=certificates.of_client()
                )
            except OSError:
                assert variables is theirs
                continue
            assert variables is ours
            writer.write(bytes.fromhex(secret))
            assert await greeted((reader, writer))
            writer.close()
        assert await said_to(port, bytes.fromhex(secret) + HELLO) == b""


async def test_what_it_lends_is_promised_while_it_lives(tmp_path: Path, secret: str) -> None:
    variables = {"XDG_RUNTIME_DIR": str(tmp_path)}
    promises, env = Promises(variables), os.environ | variables
    most = free_by_place()[RAM]
    some = most * 2 // 3

    async def lends(least: int) -> int:
        async with begun("giver", giver.Order(secret, some, least), ("--host", HERE), env) as said:
            return said.size_bytes

    async with begun("giver", giver.Order(secret, some, some), ("--host", HERE), env) as said:
        assert said.size_bytes == some
        assert promises.open() == {RAM: some}
        assert 0 < await lends(0) < some
        with pytest.raises(Refused, match="that are promised to others"):
            await lends(some)
        one = await friend(said.port, secret)
        assert await greeted(one)
        # What its server holds shows in what is free, and is not counted twice.
        await until(lambda: promises.open()[RAM] < some, "its server holds some of it")
        (server,) = rpc_servers()
        os.kill(parent(server), signal.SIGKILL)
        await until(lambda: not promises.open(), "nothing is promised any more")
        one[1].close()
    await until(lambda: not rpc_servers(), "its server has ended")


@pytest.mark.parametrize(
    ("host", "variables", "why"),
    [
        (HERE, {"XDG_RUNTIME_DIR": "."}, "moe-lent is not a folder that only this user can enter"),
        ("192.0.2.77", {}, "cannot assign requested address"),
        (HERE, {"RAY_USE_TLS": "1"}, "RAY_USE_TLS is set, and RAY_TLS_SERVER_CERT"),
    ],
)
async def test_why_it_does_not_lend_is_told(
    tmp_path: Path, secret: str, host: str, variables: dict[str, str], why: str
) -> None:
    (tmp_path / "moe-lent").write_text("")
    env = os.environ | variables
    if "XDG_RUNTIME_DIR" in env:
        env["XDG_RUNTIME_DIR"] = str(tmp_path)
    with pytest.raises(Refused, match=why):
        async with begun("giver", giver.Order(secret, 1, 1), ("--host", host), env):
            pass
