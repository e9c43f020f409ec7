"""How soon memory is free again when somebody else takes it: from the change on the card to the
reserve being free.

    python -m bench.pressure [--rounds 20] [--rest S] [--json FILE]

`--rest`: for so long nothing changed before, since it looks less often itself then.

The card is the one of the tests (`tests/support/card.py`): a stand-in driver, which pynvml really
loads, filled by the memory of a real RPC server that holds the experts of a real worker.
"""

import argparse
import asyncio
import random
import tempfile
import time
from pathlib import Path

from bench._options import amount, count, parsed, result_file
from bench._report import table
from bench._tell import spread, tell
from proxy.memory.nvml import Nvml
from proxy.memory.pace import POLL_S
from proxy.observe.log import setup
from tests.support.card import MIB, RESERVE, card_rig

CAPTION = "Another program takes memory: from that to the reserve being free again."


async def bench(rounds: int, rest_s: float) -> dict[int, list[float]]:
    """Seconds, by how many layers' experts left the card."""
    took: dict[int, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="moe-") as folder:
        async with card_rig(Path(folder), "a", settle="100ms") as rig:
            await rig.ask("a", max_tokens=1)
            reader = Nvml()
            card = reader.cards()[0].id
            for number in range(rounds):
                await rig.all_of("a")
                free, before = await rig.at_rest(), await rig.on_device("a")
                # Anywhere between two looks.
                await asyncio.sleep(rest_s + random.uniform(0, POLL_S))
                rig.nvml.change(others=max(free - (8, 20, 30)[number % 3] * MIB, 0))
                started = time.perf_counter()
                while (reader.read(card).free_bytes or 0) < RESERVE:
                    await asyncio.sleep(0.002)
                seconds = time.perf_counter() - started
                took.setdefault(before - await rig.on_device("a"), []).append(seconds)
                rig.nvml.change(others=0)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=count(), default=20)
    parser.add_argument("--rest", type=amount(zero=True), default=0.0, metavar="S")
    parser.add_argument("--json", type=result_file)
    options = parsed(parser)
    setup("console", "error")
    took = asyncio.run(bench(options.rounds, options.rest))
    rows = [
        [str(layers), spread(times, 1e3), f"{1e3 * max(times):.0f}", str(len(times))]
        for layers, times in sorted(took.items())
    ]
    head = ("layers that left", "ms", "longest", "times")
    tell({"pressure": took}, CAPTION, table(head, rows), file=options.json)


if __name__ == "__main__":
    main()
