"""A second model that fits only if the first one shrinks: the time to its first token, and then to
the next one of the first model, against unloading the first one for it.

    python -m bench.second_model [--rounds 7]

Both ways take turns in one run. The card is the one of the tests (`tests/support/card.py`): a
stand-in driver, which pynvml really loads, filled by the memory of two real RPC servers that hold
the experts of real workers.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from proxy.observe.log import setup
from tests.support.card import BODY, MIB, CardRig, card_rig


async def first_token(rig: CardRig, name: str) -> float:
    """Seconds from asking a model to the first piece of its answer."""
    body = BODY | {"model": name, "max_tokens": 4, "stream": True}
    started = time.perf_counter()
    async with rig.proxy.session.post("/v1/completions", json=body) as answer:
        assert answer.status == 200, await answer.text()
        await answer.content.readline()
        took = time.perf_counter() - started
        await answer.read()
    return took


async def turn(rig: CardRig, *, unload_first: bool) -> tuple[float, float]:
    """(seconds to the first token of b, then of a), from a state in which a fills the card."""
    for name in "ab":
        await rig.proxy.post(f"/admin/models/{name}/unload")
    rig.nvml.change(others=0)
    await first_token(rig, "a")
    await rig.all_of("a")
    rig.nvml.change(others=await rig.at_rest() - 70 * MIB)
    await rig.at_rest()
    if unload_first:
        started = time.perf_counter()
        await rig.proxy.post("/admin/models/a/unload")
        second = time.perf_counter() - started + await first_token(rig, "b")
        started = time.perf_counter()
        await rig.proxy.post("/admin/models/b/unload")
        return second, time.perf_counter() - started + await first_token(rig, "a")
    second = await first_token(rig, "b")
    assert len(await rig.proxy.ready()) == 2, "nothing was unloaded"
    return second, await first_token(rig, "a")


async def bench(rounds: int) -> None:
    seen: dict[bool, list[tuple[float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="moe-") as folder:
        async with card_rig(Path(folder), settle="100ms") as rig:
            await rig.know("b")
            for number in range(2 * rounds):
                unload_first = bool(number % 2)
                seen[unload_first].append(await turn(rig, unload_first=unload_first))
    print("seconds to the first token (median)   of the second model   then of the first again")
    middle = {
        way: [statistics.median(times[i] for times in seen[way]) for i in (0, 1)] for way in seen
    }
    for way, label in ((False, "the first one shrinks"), (True, "the first one is unloaded")):
        print(f"{label:37} {middle[way][0]:19.3f} {middle[way][1]:24.3f}")
    ratios = [middle[False][i] / middle[True][i] for i in (0, 1)]
    print(f"{'ratio':37} {ratios[0]:19.2f} {ratios[1]:24.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    setup("console", "error")
    asyncio.run(bench(options.rounds))


if __name__ == "__main__":
    main()
