"""A proxy of which nobody wants anything sleeps. Its wake-ups are counted, in a process of its own:
a machine that is slow has fewer of them in the same time, never more."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bench._served import Served, served
from tests.support.guard import HANG_S, LLAMA_S
from tests.support.llama import rpc_server
from tests.support.models import model
from tests.support.policies import policies

ROOT = Path(__file__).parents[1]
# What a start or a load leaves to be done, and being counted.
AT_FIRST = 20
# A second, with two that the counting makes. While it holds nothing it looks at nothing more often
# than every other second; nor does it at a device of which it holds memory, as the worker looks
# more often and tells.
PER_SECOND = {"holding nothing": 3, "holding": 4}
LOOKS = "memory: host"  # one each 5 s
WATCHER = "watchfiles' own looks"
# Each costs some 40 µs; one that watches policies and one for folders of models make them.
LOOKS_PER_SECOND = 20


async def wakes(proxy: Served, looks: int) -> tuple[int, float, Mapping[str, Any]]:
    """How often it woke while it looked so many times at the machine's memory, and in how many
    seconds; and what it handed to threads."""
    began_s, first = time.monotonic(), await proxy.counted()
    async with asyncio.timeout(HANG_S):
        while True:
            await asyncio.sleep(0.5)  # each question wakes it too
            now = await proxy.counted()
            if now["handed"].get(LOOKS, 0) >= first["handed"].get(LOOKS, 0) + looks:
                break
    woken = sum(now["wakes"].values()) - sum(first["wakes"].values())
    handed = {what: n - first["handed"].get(what, 0) for what, n in now["handed"].items()}
    return woken, time.monotonic() - began_s, handed


@pytest.mark.llama
@pytest.mark.timeout(LLAMA_S)  # six looks, 5 s apart
async def test_it_sleeps_while_nobody_wants_anything(tmp_path: Path) -> None:
    async with rpc_server(threads=1) as rpc:
        moe = {"path": model(layers=2), "ctx": 512, "parallel": 1, "keep_alive": -1}
        text = policies({"moe": moe}, devices={"rpc": [rpc]})
        async with served(tmp_path, text, ROOT, counts_wakes=True) as proxy:
            seen = {"holding nothing": await wakes(proxy, 2)}
            await proxy.load("moe")
            await wakes(proxy, 2)  # for the first seconds it looks often itself
            seen["holding"] = await wakes(proxy, 2)

    for state, (woken, seconds, handed) in seen.items():
        assert woken < AT_FIRST + PER_SECOND[state] * seconds, seen
        # Files that are watched are looked at now and then only, and so are folders.
        watcher = sum(n for what, n in handed.items() if what.startswith(WATCHER))
        assert watcher < AT_FIRST + LOOKS_PER_SECOND * seconds, seen
        assert sum(handed.values()) - watcher < AT_FIRST + 2 * seconds, seen
