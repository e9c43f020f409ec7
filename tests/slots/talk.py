"""Conversations with random models: long enough to be worth carrying."""

import random
from typing import Any

from proxy.engine.types import LoadOptions
from tests.support.llama import Client

WORDS = "the cat sat on a mat and looked at the moon while rain fell over hills".split()
TOKENS = 16
# As a worker is loaded here, for llama-server itself too.
CTX, PARALLEL = 2048, 2
BODY = {"n_predict": TOKENS, "temperature": 0, "ignore_eos": True, "cache_prompt": True}


def story(number: int = 0, words: int = 300) -> str:
    """The beginning of a conversation; each number's has nothing in common with another's."""
    choose = random.Random(number).choice
    return f"{number} " + " ".join(choose(WORDS) for _ in range(words))


def plain_arguments(options: LoadOptions) -> tuple[str, ...]:
    """What llama-server itself needs to be as a worker with these options."""
    ctx = options.ctx * options.parallel
    return ("-c", str(ctx), "-np", str(options.parallel), "-t", "1", *options.args)


async def turn(client: Client, prompt: str) -> dict[str, Any]:
    return await client.post("/completion", BODY | {"prompt": prompt})


def next_prompt(prompt: str, answer: dict[str, Any]) -> str:
    return f"{prompt}{answer['content']} and what did the cat do then"
