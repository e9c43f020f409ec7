"""What the control socket answers where the host fails in a way that nobody thought of."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proxy.engine.types import Status
from proxy.worker.control import Control
from tests.support.guard import HANG_S


async def test_whatever_goes_wrong_is_an_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def devices() -> None:
        raise OverflowError("too many")

    embedded = SimpleNamespace(
        state="ready",
        live_moves=False,
        moves_by_reload=False,
        why_no_moves=None,
        status=lambda: Status(0),
        devices=devices,
        memory=lambda: {"steps": 1},
        subscribe=lambda _: None,
    )
    server = await Control(cast(Any, embedded), lambda: None).serve(str(tmp_path / "c"))
    async with server, asyncio.timeout(HANG_S):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "c"))
        writer.write(b'{"id": 1, "op": "devices"}\n')
        assert json.loads(await reader.readline())["event"] == "state"
        assert json.loads(await reader.readline()) == {"id": 1, "error": "OverflowError: too many"}
        assert "Traceback" in capsys.readouterr().err
        writer.write(b'{"id": 2, "op": "memory"}\n')
        assert json.loads(await reader.readline()) == {"id": 2, "ok": {"steps": 1}}
        writer.close()
