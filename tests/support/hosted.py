"""A hosted worker without a proxy."""

import contextlib
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from proxy.engine.hosted import HostedEngine
from proxy.engine.log_buffer import LogBuffer
from proxy.engine.types import LoadOptions
from tests.support.llama import libdir


@contextlib.asynccontextmanager
async def hosted(
    path: Path, rpc: Sequence[str] = (), *, slot_folder: Path | None = None, **options: Any
) -> AsyncIterator[HostedEngine]:
    """A worker that serves, on these devices; more keywords go to LoadOptions."""
    settings: dict[str, Any] = {"ctx": 2048, "parallel": 4, "threads": 1, "rpc": tuple(rpc)}
    settings["libdir"] = libdir()
    with tempfile.TemporaryDirectory(prefix="moe-") as folder:
        engine = HostedEngine(
            "b1",
            LoadOptions(model="test", path=path, **settings | options),
            runtime_dir=Path(folder),
            log_buffer=LogBuffer(),
            slot_folder=slot_folder,
        )
        try:
            await engine.start()
            yield engine
        finally:
            await engine.stop()
