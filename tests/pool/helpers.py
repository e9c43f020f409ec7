"""What tests of the pool wait for, and what its small servers answer."""

import asyncio

from proxy.pool.pool import Pool
from proxy.pool.state import Backend, BackendState

ANSWER = [b"data: 0\n", b"data: 1\n", b"data: 2\n"]


LAST_WORDS = r"ended while loading \(1\)\n(.*\n)*these are my last words$"


async def until(pool: Pool, text: str) -> None:
    """Wait until the pool's one-line report has `text` in it."""
    while text not in repr(pool):
        await asyncio.sleep(0.01)


async def until_gone(backend: Backend) -> None:
    while backend.state is not BackendState.GONE:
        await asyncio.sleep(0.01)
