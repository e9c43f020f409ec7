"""A second model that fits only if the first one shrinks: the time to its first token, and then to
the next one of the first model, against unloading the first one for it.

    python -m bench.second_model [--rounds 7] [--json FILE]

Both ways take turns in one run. The card is the one of the tests (`tests/support/card.py`): a
stand-in driver, which pynvml really loads, filled by the memory of two real RPC servers that hold
the experts of real workers.
"""

import argparse
import asyncio
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from bench._options import count, parsed, result_file
from bench._report import figure, table
from bench._tell import tell, times_text
from proxy.observe.log import setup
from tests.support.card import BODY, MIB, CardRig, card_rig

SHRINKS, LEAVES = "the first one shrinks", "the first one is unloaded"
CAPTION = "A second model that has room only if the first one gives some: time to the first token."


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


async def bench(rounds: int) -> dict[str, list[tuple[float, float]]]:
    """What `turn` took, by what happened to the first model."""
    seen: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="moe-") as folder:
        async with card_rig(Path(folder), settle="100ms") as rig:
            await rig.know("b")
            for number in range(2 * rounds):
                unload_first = bool(number % 2)
                way = LEAVES if unload_first else SHRINKS
                seen[way].append(await turn(rig, unload_first=unload_first))
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=count(), default=7)
    parser.add_argument("--json", type=result_file)
    options = parsed(parser)
    setup("console", "error")
    seen = asyncio.run(bench(options.rounds))
    second, again = (
        {way: [times[i] for times in seen[way]] for way in (SHRINKS, LEAVES)} for i in (0, 1)
    )
    columns = (second, again)
    rows = [[way, *(figure(c[way]).text(1e3) for c in columns)] for way in (SHRINKS, LEAVES)]
    rows.append(["ratio", *(times_text(c[SHRINKS], c[LEAVES]) for c in columns)])
    head = ("", "of the second model, ms", "then of the first again, ms")
    tell({"second_model": seen}, CAPTION, table(head, rows), file=options.json)


if __name__ == "__main__":
    main()
