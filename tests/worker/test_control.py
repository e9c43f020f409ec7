"""What the control socket answers where the host fails in a way that nobody thought of."""

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proxy.engine.types import Status
from proxy.worker.control import Control
from tests.support.guard import HANG_S


def control(devices: Callable[[], Any]) -> Control:
    embedded = SimpleNamespace(
        state="ready",
        live_moves=False,
        moves_by_reload=False,
        why_no_moves=None,
        confined="files",
        status=lambda: Status(0),
        devices=devices,
        memory=lambda: {"steps": 1},
        subscribe=lambda _: None,
    )
    return Control(cast(Any, embedded), lambda: None)


async def test_whatever_goes_wrong_is_an_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def devices() -> None:
        raise OverflowError("too many")

    server = await control(devices).serve(str(tmp_path / "c"))
    async with server, asyncio.timeout(HANG_S):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "c"))
        writer.write(b'{"id": 1, "op": "devices"}\n')
        assert json.loads(await reader.readline())["event"] == "state"
        assert json.loads(await reader.readline()) == {"id": 1, "error": "OverflowError: too many"}
        assert "Traceback" in capsys.readouterr().err
        writer.write(b'{"id": 2, "op": "memory"}\n')
        assert json.loads(await reader.readline()) == {"id": 2, "ok": {"steps": 1}}
        writer.close()


async def test_a_driver_that_hangs_has_one_thread_however_often_it_is_asked(
    tmp_path: Path,
) -> None:
    asked: list[int] = []
    answer = threading.Event()

    def devices() -> list[int]:
        asked.append(1)
        answer.wait(HANG_S)
        return asked

    server = await control(devices).serve(str(tmp_path / "c"))
    async with server, asyncio.timeout(HANG_S):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "c"))
        await reader.readline()
        for number in range(40):  # more than there are threads
            writer.write(b'{"id": %d, "op": "devices"}\n' % number)
        writer.write(b'{"id": 99, "op": "memory"}\n')
        assert json.loads(await reader.readline())["id"] == 99
        answer.set()
        answers = [json.loads(await reader.readline()) for _ in range(40)]
        assert answers == [{"id": number, "ok": [1]} for number in range(40)]
        writer.close()


async def test_who_asked_to_be_told_is_when_the_devices_show_something_else(tmp_path: Path) -> None:
    free = [2]
    server = await control(lambda: list(free)).serve(str(tmp_path / "c"))
    async with server, asyncio.timeout(HANG_S):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "c"))
        await reader.readline()
        writer.write(b'{"id": 1, "op": "devices", "look_every_s": 0.001}\n')
        assert json.loads(await reader.readline()) == {"id": 1, "ok": [2]}
        free[0] = 1
        assert json.loads(await reader.readline()) == {"event": "devices"}
        free[0] = 0  # it was told once, and has not asked since
        writer.write(b'{"id": 2, "op": "devices"}\n')
        assert json.loads(await reader.readline()) == {"id": 2, "ok": [0]}
        writer.close()
