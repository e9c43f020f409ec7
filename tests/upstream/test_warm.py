"""Connections that are kept ready, to a real server on a Unix socket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.engine.types import Address
from proxy.upstream import warm
from proxy.upstream.warm import WarmConnections
from tests.support.guard import HANG_S

AN_HOUR_S = 3600.0


class Engine:
    """Takes connections, and knows which of them were closed by the other side."""

    def __init__(self, socket: Path) -> None:
        self.address = Address(str(socket))
        self.open: list[asyncio.StreamWriter] = []
        self.closed: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open.append(writer)
        await reader.read()
        self.closed.put_nowait(writer)
        writer.close()


@asynccontextmanager
async def serving(socket: Path) -> AsyncIterator[Engine]:
    engine = Engine(socket)
    server = await asyncio.start_unix_server(engine.serve, socket)
    try:
        async with asyncio.timeout(HANG_S):
            yield engine
    finally:
        server.close()
        for writer in engine.open:
            writer.close()


async def test_one_is_ready_after_a_request_and_taken_once(tmp_path: Path) -> None:
    spares = WarmConnections()
    async with serving(tmp_path / "s") as engine:
        await spares.renew(engine.address)
        await spares.renew(engine.address)
        taken = spares.take(engine.address)

        assert taken is not None
        assert taken.is_open
        assert spares.take(engine.address) is None
        taken.abort()
        await engine.closed.get()
        assert len(engine.open) == 1, "a young one is not made anew"


async def test_one_that_nobody_takes_is_closed_and_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm, "SPARE_AGE_S", 0.01)
    spares = WarmConnections()
    async with serving(tmp_path / "s") as engine:
        await spares.renew(engine.address)
        await engine.closed.get()

    assert repr(spares) == "<WarmConnections ready=0>"


async def test_an_older_one_gives_way_to_a_younger_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm, "RENEW_AGE_S", 0.0)
    monkeypatch.setattr(warm, "SPARE_AGE_S", AN_HOUR_S)
    spares = WarmConnections()
    async with serving(tmp_path / "s") as engine:
        await spares.renew(engine.address)
        await spares.renew(engine.address)
        assert await engine.closed.get() is engine.open[0]
        assert repr(spares) == "<WarmConnections ready=1>"

        spares.close()
        assert await engine.closed.get() is engine.open[1]
    assert repr(spares) == "<WarmConnections ready=0>"
