"""A hosted worker on an RPC device, for the tests of this folder."""

import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from proxy.engine.hosted import HostedEngine
from proxy.engine.log_buffer import LogBuffer
from proxy.engine.types import LoadOptions
from tests.support.llama import rpc_server

Hosted = Callable[..., AbstractAsyncContextManager[HostedEngine]]


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are started with whatever `args` they are given."""
    monkeypatch.setattr("proxy.engine.hosted.refusals", lambda *_: [])


@pytest.fixture
def hosted() -> Hosted:
    """`async with hosted(path, devices=1, ...) as engine:` more keywords go to LoadOptions."""

    @contextlib.asynccontextmanager
    async def start(path: Path, *, devices: int = 1, **options: Any) -> AsyncIterator[HostedEngine]:
        async with contextlib.AsyncExitStack() as stack:
            rpc = [await stack.enter_async_context(rpc_server()) for _ in range(devices)]
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="moe-"))
            settings: dict[str, Any] = {"ctx": 2048, "parallel": 4, "threads": 1}
            settings |= {"rpc": tuple(rpc)} | options
            engine = HostedEngine(
                "b1",
                LoadOptions(model="test", path=path, **settings),
                runtime_dir=Path(folder),
                log_buffer=LogBuffer(),
            )
            try:
                await engine.start()
                yield engine
            finally:
                await engine.stop()

    return start
