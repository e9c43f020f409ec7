"""Asks a llama-server for an answer, and how fast it was."""

import random
from typing import Any

import aiohttp

from proxy.engine.types import Address
from proxy.errors import BackendDied

WORDS = (
    "river mill winter stone bread letter market engine garden paper number silver window morning "
    "music harbour table forest bridge kitchen mountain story field lantern copper village thread "
    "summer question answer north little quick heavy yellow open carry build listen remember"
).split()


def session_with(address: Address) -> aiohttp.ClientSession:
    connector = aiohttp.UnixConnector(address.socket) if address.socket else None
    return aiohttp.ClientSession(
        address.origin, connector=connector, timeout=aiohttp.ClientTimeout(total=None)
    )


async def _post(session: aiohttp.ClientSession, path: str, body: dict[str, object]) -> Any:
    try:
        async with session.post(path, json=body) as answer:
            if answer.status != 200:
                raise BackendDied(f"llama-server answered {answer.status}: {await answer.text()}")
            return await answer.json()
    except aiohttp.ClientError as error:
        raise BackendDied(f"the worker is gone: {error}") from error


async def prompt_of(session: aiohttp.ClientSession, count: int) -> list[int]:
    """`count` tokens of varied words, the same at every run: other words, other experts."""
    chosen = random.Random(0).choices(WORDS, k=count)
    answer = await _post(session, "/tokenize", {"content": " ".join(chosen)})
    tokens: list[int] = answer["tokens"]
    return tokens[:count]


async def speed_of(
    session: aiohttp.ClientSession, prompt: list[int], tokens: int
) -> tuple[float, float]:
    """(generated, read) tokens per second of one answer, as the server itself measured."""
    body = {
        "prompt": prompt,
        "n_predict": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "cache_prompt": False,
    }
    timings = (await _post(session, "/completion", body))["timings"]
    return timings["predicted_per_second"], timings["prompt_per_second"]
