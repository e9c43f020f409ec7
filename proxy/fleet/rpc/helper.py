"""Starts a giver or a taker and ends it: a process of its own, so that whatever becomes of whoever
started it, nothing is lent any more."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, Literal

import msgspec

from proxy.fleet.rpc.door import Said

STARTS_WITHIN_S: Final = 20.0
ENDS_WITHIN_S: Final = 2.0


class Refused(Exception):
    """It has not begun. The text, which is its own, is for people."""


@asynccontextmanager
async def helper(
    what: Literal["giver", "taker"],
    order: msgspec.Struct,
    arguments: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[int]:
    """As `begun`, with its port alone."""
    async with begun(what, order, arguments, env) as said:
        yield said.port


@asynccontextmanager
async def begun(
    what: Literal["giver", "taker"],
    order: msgspec.Struct,
    arguments: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[Said]:
    """What it says of itself, for the length of the block. `order` is what it is told on its
    standard input, where no other user can read it. Raises Refused and OSError."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", f"proxy.fleet.rpc.{what}", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=dict(os.environ if env is None else env),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(msgspec.json.encode(order) + b"\n")
        try:
            async with asyncio.timeout(STARTS_WITHIN_S):
                line = await process.stdout.readline()
            said = msgspec.json.decode(line, type=Said)
        except TimeoutError:
            why = f"has said nothing within {STARTS_WITHIN_S:g} s"
            raise OSError(f"the {what} of an RPC server {why}") from None
        except msgspec.DecodeError as error:
            raise OSError(f"the {what} of an RPC server has ended at its start") from error
        if said.error:
            raise Refused(said.error)
        yield said
    finally:
        process.stdin.close()  # it ends what it lends, and itself
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(ENDS_WITHIN_S):
                    await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
