"""How soon memory is free again when somebody else takes it: from the change on the card to the
reserve being free.

    python -m bench.pressure [--rounds 20]

The card is the one of the tests (`tests/support/card.py`): a stand-in driver, which pynvml really
loads, filled by the memory of a real RPC server that holds the experts of a real worker.
"""

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from pathlib import Path

from proxy.memory.nvml import Nvml
from proxy.memory.pace import POLL_S
from proxy.observe.log import setup
from tests.support.card import MIB, RESERVE, card_rig


async def bench(rounds: int) -> None:
    took: dict[int, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="moe-") as folder:
        async with card_rig(Path(folder), "a", settle="100ms") as rig:
            await rig.ask("a", max_tokens=1)
            reader = Nvml()
            card = reader.cards()[0].id
            for number in range(rounds):
                await rig.all_of("a")
                free, before = await rig.at_rest(), await rig.on_device("a")
                await asyncio.sleep(random.uniform(0, POLL_S))  # anywhere between two polls
                rig.nvml.change(others=max(free - (8, 20, 30)[number % 3] * MIB, 0))
                started = time.perf_counter()
                while (reader.read(card).free_bytes or 0) < RESERVE:
                    await asyncio.sleep(0.002)
                seconds = time.perf_counter() - started
                took.setdefault(before - await rig.on_device("a"), []).append(seconds)
                rig.nvml.change(others=0)
    print("layers demoted: ms from the change to the reserve being free (poll interval 250 ms)")
    for layers, times in sorted(took.items()):
        middle = statistics.median(times) * 1000
        print(
            f"{layers:3}: median {middle:.0f}, longest {max(times) * 1000:.0f}, {len(times)} times"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    setup("console", "error")
    asyncio.run(bench(options.rounds))


if __name__ == "__main__":
    main()
