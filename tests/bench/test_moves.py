"""What the bench of moves sees of a stream."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from aiohttp import web

from bench.moves import gaps
from proxy.engine.hosted import HostedEngine
from proxy.engine.types import Address
from tests.support.guard import HANG_S

TOKENS = 4


async def test_a_context_that_is_full_does_not_end_the_measuring(tmp_path: Path) -> None:
    stop, asked = asyncio.Event(), 0

    async def completion(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        if asked == 3:
            stop.set()
        answer = web.StreamResponse()
        await answer.prepare(request)
        for _ in range(TOKENS):
            await answer.write(b"data: " + json.dumps({"content": "a"}).encode() + b"\n\n")
        return answer

    app = web.Application()
    app.router.add_post("/completion", completion)
    runner = web.AppRunner(app)
    await runner.setup()
    path = str(tmp_path / "socket")
    await web.UnixSite(runner, path).start()
    engine: Any = SimpleNamespace(address=Address(socket=path))
    try:
        async with asyncio.timeout(HANG_S):
            found = await gaps(cast(HostedEngine, engine), stop)
    finally:
        await runner.cleanup()

    # None between the last token of one and the first of the next.
    assert (asked, len(found)) == (3, 2 * (TOKENS - 1))
