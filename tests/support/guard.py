"""How long a test may take, and one wait in it, before it is taken to hang.

Never measures of speed: nothing passes or fails by them but what hangs. They were chosen where no
test took longer than 11 s, of those without an engine 4 s, and hardly a wait more than 1 s, so that
a machine that is ten times slower reaches none of them. A wait is given up before its test is: it
can say what it waited for. `--thorough` does ten times as much, and so has ten times as long.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

HANG_S = 50.0  # one wait
PLAIN_S = 60  # a test of our own code
LLAMA_S = 300  # one that runs llama.cpp, marked `llama`
THOROUGH = 10


async def until(
    fact: Callable[[], Any], what: str, instead: Callable[[], Awaitable[object]] | None = None
) -> Any:
    """Ask, awaiting what is awaitable, until the answer is true; return it. Where it never becomes
    so, `what` is told, and what there is `instead`."""
    try:
        async with asyncio.timeout(HANG_S):
            while True:
                answer = fact()
                if inspect.isawaitable(answer):
                    answer = await answer
                if answer:
                    return answer
                await asyncio.sleep(0.01)
    except TimeoutError:
        seen = await instead() if instead else ""
        raise AssertionError(f"it never came to this: {what} {seen}") from None
