"""A hosted worker on RPC devices, for the tests of this folder."""

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from proxy.engine.hosted import HostedEngine
from tests.support.hosted import hosted as worker
from tests.support.llama import rpc_server

Hosted = Callable[..., AbstractAsyncContextManager[HostedEngine]]


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are started with whatever `args` they are given."""
    monkeypatch.setattr("proxy.engine.hosted.refusals", lambda *_, **__: [])


@pytest.fixture
def hosted() -> Hosted:
    """`async with hosted(path, devices=1, ...) as engine:` more keywords go to LoadOptions."""

    @contextlib.asynccontextmanager
    async def start(path: Path, *, devices: int = 1, **options: Any) -> AsyncIterator[HostedEngine]:
        async with contextlib.AsyncExitStack() as stack:
            rpc = [await stack.enter_async_context(rpc_server()) for _ in range(devices)]
            yield await stack.enter_async_context(worker(path, **{"rpc": rpc} | options))

    return start
