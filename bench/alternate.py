"""Two models that are asked in turn, and have room beside each other only with less of their
experts on the card: both stay loaded, against a llama-server that is ended and started for each
change, as programs do that swap models.

    python -m bench.alternate [--changes 12] [--tokens 32] [--json FILE]

The sides take turns, change by change. The card is the one of the tests (`tests/support/card.py`):
a stand-in driver, which pynvml really loads, filled by the memory of two real RPC servers. The
plain side has such a server of its own, with all experts on it. No prompt begins as one before, so
that nobody has it in a cache.
"""

import argparse
import asyncio
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from bench._options import count, parsed, result_file
from bench._plain import first_token_s, llama_server
from bench._report import figure, table
from bench._tell import tell, times_text
from proxy.observe.log import setup
from tests.support.card import MIB, CardRig, card_rig
from tests.support.llama import rpc_server

OURS, PLAIN = "both stay loaded", "llama-server, started for each"
ROOM_BYTES = 70 * MIB  # beside the first model: some layers of the second
Seen = dict[str, list[tuple[float, float]]]


def prompt(number: int) -> str:
    return f"{number} " + "the quick brown fox " * 12


async def both_loaded(rig: CardRig) -> None:
    """From here on a and b are there, and share the card."""
    await rig.know("b")
    await rig.ask("a")
    await rig.all_of("a")
    rig.nvml.change(others=await rig.at_rest() - ROOM_BYTES)
    await rig.at_rest()
    await rig.ask("b")
    await rig.at_rest()
    assert len(await rig.proxy.ready()) == 2, "one of them was unloaded"


async def bench(changes: int, tokens: int) -> tuple[Seen, dict[str, int]]:
    """Seconds to the first and to the last token, by side; and how many layers' experts of each of
    our models were on the card."""
    seen: Seen = {OURS: [], PLAIN: []}
    with tempfile.TemporaryDirectory(prefix="moe-") as folder:
        async with (
            card_rig(Path(folder), settle="100ms") as rig,
            rpc_server() as rpc,
            AsyncExitStack() as plain,
        ):
            await both_loaded(rig)
            on_card = {name: await rig.on_device(name) for name in "ab"}

            async def swapped(name: str, number: int) -> tuple[float, float]:
                started = time.perf_counter()
                await plain.aclose()  # the other one
                own = ("--rpc", rpc, "-ngl", "999", "-c", "1024", "-np", "2", "-t", "1")
                url = await plain.enter_async_context(
                    llama_server(Path(rig.models[name]["path"]), *own)
                )
                ready_s = time.perf_counter() - started
                first, last = await first_token_s(url, name, prompt(number), tokens)
                return ready_s + first, ready_s + last

            for number in range(-1, changes):
                name = "ab"[number % 2]
                ours = await first_token_s(rig.proxy.url, name, prompt(number), tokens)
                theirs = await swapped(name, number)
                if number >= 0:
                    seen[OURS].append(ours)
                    seen[PLAIN].append(theirs)
    return seen, on_card


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--changes", type=count(), default=12, help="from one model to the other")
    parser.add_argument("--tokens", type=count(), default=32, help="of each answer")
    parser.add_argument("--json", type=result_file)
    options = parsed(parser)
    setup("console", "error")
    seen, on_card = asyncio.run(bench(options.changes, options.tokens))
    columns = [{side: [each[i] for each in times] for side, times in seen.items()} for i in (0, 1)]
    rows = [[side, *(figure(column[side]).text(1000) for column in columns)] for side in seen]
    rows.append(["ratio", *(times_text(column[OURS], column[PLAIN]) for column in columns)])
    held = " and ".join(str(count) for count in on_card.values())
    caption = (
        "Two models that are asked in turn: milliseconds from asking the other one. Those that "
        f"stay loaded have the experts of {held} of their 12 layers on the card, plain "
        "llama-server has all."
    )
    head = ("", "to the first token", f"to the end of {options.tokens} tokens")
    tell(
        {"alternate": seen, "layers_on_card": on_card},
        caption,
        table(head, rows),
        file=options.json,
    )


if __name__ == "__main__":
    main()
