"""The supervisor's side: has others lend, and the node's proxy find that on its own machine."""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import structlog

from proxy.fleet.rpc import taker
from proxy.fleet.rpc.helper import Refused, helper
from proxy.fleet.rpc.words import LENDS_WITHIN_S, LONGEST_LINE, Answer, Ask, Share
from proxy.tasks import spawn

log = structlog.get_logger()

ASKED_WITHIN_S: Final = 10.0


class NothingLent(Exception):
    """Why not, in words for people."""


@dataclass(frozen=True, slots=True)
class Giver:
    """Where a node lends some of its memory, to whoever has the token."""

    host: str
    port: int
    token: str  # in hexadecimal digits
    size_bytes: int


class Loan(Protocol):
    """What several nodes lend for one backend."""

    @property
    def givers(self) -> Sequence[Giver]: ...

    async def end(self) -> None:
        """They lend it no more. Does not raise."""


class Lender(Protocol):
    """Who has the fleet's nodes lend: Ray (`proxy/fleet/rpc/lender.py`)."""

    async def offers(self) -> Sequence[int]:
        """The bytes that other nodes have free, for each that could lend."""

    async def lend(self, model: str, size_bytes: int, reserve_bytes: int) -> Loan:
        """So many bytes, or as many as there are, of as few nodes as will do, and of each the
        reserve too. Raises NothingLent. When it is cancelled, nothing is lent."""


@asynccontextmanager
async def lending(path: Path, lender: Lender) -> AsyncIterator[None]:
    """For the length of the block, answer at this Unix socket. What is lent when it ends, is
    not any more."""
    sessions: set[asyncio.Task[None]] = set()

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        sessions.add(task)
        try:
            await _session(lender, reader, writer)
        except asyncio.CancelledError:
            pass  # by us, at the end
        except Exception:
            log.exception("lending_failed")
        finally:
            sessions.discard(task)
            writer.close()

    server = await asyncio.start_unix_server(meet, sock=_listener(path), limit=LONGEST_LINE)
    try:
        yield
    finally:
        server.close()
        for task in sessions:
            task.cancel()
        await asyncio.gather(*sessions, return_exceptions=True)
        _remove(path)


def _listener(path: Path) -> socket.socket:
    """For our own user; one of before is in the way."""
    _remove(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o600)
    return listener


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


async def _session(
    lender: Lender, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    pid, uid = _who(writer)
    if uid != os.getuid():
        return
    try:
        async with asyncio.timeout(ASKED_WITHIN_S):
            ask = msgspec.json.decode(await reader.readline(), type=Ask)
    except (TimeoutError, ValueError):
        return
    if ask.what == "offers":
        async with asyncio.timeout(ASKED_WITHIN_S):
            _say(writer, Answer(offers=tuple(await lender.offers())))
            await writer.drain()
        return
    async with AsyncExitStack() as stack:
        gone = spawn(reader.read(1), name="rpc borrower")  # it says no more
        lent = spawn(_lend(stack, lender, ask, pid), name="rpc loan")
        try:
            await asyncio.wait((gone, lent), return_when=asyncio.FIRST_COMPLETED)
            if lent.done():
                answer = await lent
                _say(writer, answer)
                await writer.drain()
                if not answer.error:
                    await gone
        finally:
            await _cancel(lent)
            await _cancel(gone)


async def _lend(stack: AsyncExitStack, lender: Lender, ask: Ask, pid: int) -> Answer:
    """`stack` ends what is lent."""
    try:
        async with asyncio.timeout(LENDS_WITHIN_S):
            loan = await lender.lend(ask.model, ask.size_bytes, ask.reserve_bytes)
            stack.push_async_callback(loan.end)
            shares = [await _share(stack, giver, pid) for giver in loan.givers]
    except (NothingLent, Refused) as error:
        return Answer(error=str(error))
    except TimeoutError:
        return Answer(error=f"the fleet has lent nothing within {LENDS_WITHIN_S:g} s")
    except Exception as error:
        log.exception("lending_failed", model=ask.model)
        return Answer(error=f"{type(error).__name__}: {error}")
    log.info("lent", model=ask.model, nodes=[giver.host for giver in loan.givers])
    return Answer(lent=tuple(shares))


async def _share(stack: AsyncExitStack, giver: Giver, pid: int) -> Share:
    order = taker.Order(giver.host, giver.port, giver.token, pid)
    port = await stack.enter_async_context(helper("taker", order))
    return Share(f"{taker.HERE}:{port}", giver.size_bytes)


def _who(writer: asyncio.StreamWriter) -> tuple[int, int]:
    """The process and the user on the other end."""
    sock = writer.get_extra_info("socket")
    form = struct.Struct("3i")
    pid, uid, _ = form.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, form.size))
    return pid, uid


def _say(writer: asyncio.StreamWriter, answer: Answer) -> None:
    writer.write(msgspec.json.encode(answer) + b"\n")


async def _cancel(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await task
