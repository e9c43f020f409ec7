"""What a fleet lends, without a fleet: givers on this machine, and a stranger's tools."""

import asyncio
import os
import secrets
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from proxy.fleet.rpc import giver, taker
from proxy.fleet.rpc.helper import helper
from proxy.fleet.rpc.lending import Giver, NothingLent
from proxy.node.names import (
    AUTHORITY_VARIABLE,
    CERTIFICATE_KEY_VARIABLE,
    CERTIFICATE_VARIABLE,
    TLS_VARIABLE,
)
from tests.support.guard import HANG_S

HERE = "127.0.0.1"
# What a client of an RPC server says first, and how long the answer is.
HELLO = bytes([14]) + (24).to_bytes(8, "little") + bytes(24)
ANSWER_BYTES = 8 + 28


def token() -> str:
    return secrets.token_hex(giver.TOKEN_BYTES)


@dataclass
class LocalLoan:
    givers: Sequence[Giver]
    stack: AsyncExitStack

    async def end(self) -> None:
        await self.stack.aclose()


@dataclass
class LocalLender:
    """Nodes with so many bytes free each. Keeps `lending.Lender`."""

    free: Sequence[int]
    asked: list[tuple[str, int]] = field(default_factory=list)
    loans: list[LocalLoan] = field(default_factory=list)

    async def offers(self) -> Sequence[int]:
        return self.free

    async def lend(self, model: str, size_bytes: int, reserve_bytes: int) -> LocalLoan:
        self.asked.append((model, size_bytes))
        if not self.free:
            raise NothingLent("no other node has memory free")
        stack = AsyncExitStack()
        givers = []
        for free in self.free:
            if size_bytes <= 0:
                break
            order = giver.Order(token())
            port = await stack.enter_async_context(helper("giver", order, ("--host", HERE)))
            givers.append(Giver(HERE, port, order.token, min(free, size_bytes + reserve_bytes)))
            size_bytes -= free - reserve_bytes
        self.loans.append(LocalLoan(givers, stack))
        return self.loans[-1]


@asynccontextmanager
async def relayed(env: Mapping[str, str] | None = None) -> AsyncIterator[tuple[int, Giver]]:
    """The local port of a device that is lent to this process, and where it is lent."""
    order = giver.Order(token())
    async with helper("giver", order, ("--host", HERE), env) as port:
        taken = taker.Order(HERE, port, order.token, os.getpid())
        async with helper("taker", taken, (), env) as local:
            yield local, Giver(HERE, port, order.token, 0)


def rpc_servers(below: int | None = None) -> list[int]:
    """The RPC servers that were started by the givers that a process, else this one, has
    started. Tests before may have left others of theirs."""
    family, found, parents = {below or os.getpid()}, [], dict[int, tuple[int, str]]()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                name, _, rest = (entry / "stat").read_text(errors="replace").rpartition(")")
            except OSError:
                continue
            parents[int(entry.name)] = int(rest.split()[1]), name.partition("(")[2]
    while more := {pid for pid, (parent, _) in parents.items() if parent in family} - family:
        family |= more
        found += [pid for pid in more if parents[pid][1].startswith("ggml-rpc-server")]
    return [pid for pid in found if _is_giver(parents[pid][0])]


def _is_giver(pid: int) -> bool:
    try:
        return b"proxy.fleet.rpc.giver" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def said_to(port: int, words: bytes, *, more: bytes = b"", host: str = HERE) -> bytes:
    """All that is answered to these words, until the other side closes."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(words)
        await writer.drain()
        if more:
            writer.write(more)
        async with asyncio.timeout(HANG_S):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def greeted(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bool:
    """Whether an RPC server answers there."""
    reader, writer = connection
    writer.write(HELLO)
    try:
        async with asyncio.timeout(HANG_S):
            return len(await reader.readexactly(ANSWER_BYTES)) == ANSWER_BYTES
    except (asyncio.IncompleteReadError, ConnectionError):
        return False


def certificate(folder: Path, name: str) -> dict[str, str]:
    """Variables of a cluster with TLS, with an authority of its own. Raises FileNotFoundError
    where there is no openssl."""
    key, made = folder / f"{name}.key", folder / f"{name}.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", f"/CN={name}",
         "-addext", f"subjectAltName=IP:{HERE}", "-keyout", key, "-out", made],
        check=True,
        capture_output=True,
    )  # fmt: skip
    files = {
        AUTHORITY_VARIABLE: made,
        CERTIFICATE_VARIABLE: made,
        CERTIFICATE_KEY_VARIABLE: key,
    }
    return {TLS_VARIABLE: "1", **{variable: str(file) for variable, file in files.items()}}
