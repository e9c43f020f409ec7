"""Many clients for long, while workers are killed and stopped, splits and policies change, and
clients leave: every answer is the right one, and nothing piles up."""

import asyncio
import os
import random
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.reliability.stand import LAYERS, Seen, Stand, stand
from tests.support.guard import HANG_S, until

SOAK_S, THOROUGH_S = 90.0, 600.0
pytestmark = [pytest.mark.llama, pytest.mark.alone, pytest.mark.timeout(4 * THOROUGH_S)]

CLIENTS = 64
PATIENCE_S = 6 * HANG_S
KILL_EVERY_S, STOP_EVERY_S, CHANGE_EVERY_S = 20.0, 60.0, 1.5
# What may come on top of what the proxy had after the first third: events that it keeps, caches.
MORE_MEMORY = 16 << 20
MORE_DESCRIPTORS = 8


@dataclass(slots=True)
class Tally:
    """What became of all requests."""

    whole: int = 0
    left: int = 0  # the client went away itself
    broken: int = 0  # in mid-answer, told by the protocol's error
    faults: int = 0
    wrong: list[str] = field(default_factory=list)


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Stand]:
    # Each waits for its turn among all the others, while workers come and go.
    async with stand(tmp_path, parallel=8, patience_s=PATIENCE_S) as running:
        yield running


async def test_soak(it: Stand, thorough: bool) -> None:
    rng, tally = random.Random(1), Tally()
    lasts_s = THOROUGH_S if thorough else SOAK_S
    assert (await it.ask()).ended
    over, device = asyncio.Event(), asyncio.ensure_future(it.rpc.keep())
    doing = [asyncio.ensure_future(_client(it, n, over, tally)) for n in range(CLIENTS)]
    doing += [
        asyncio.ensure_future(_every(KILL_EVERY_S, _signal(it, signal.SIGKILL, tally), over)),
        asyncio.ensure_future(_every(STOP_EVERY_S, _signal(it, signal.SIGSTOP, tally), over)),
        asyncio.ensure_future(_every(CHANGE_EVERY_S, lambda: _change(it, rng), over)),
    ]
    await asyncio.sleep(lasts_s / 3)
    memory, descriptors = _memory(it), _descriptors(it)
    await asyncio.sleep(lasts_s * 2 / 3)
    over.set()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*doing)
    device.cancel()

    assert not tally.wrong[:5], tally
    assert tally.whole > CLIENTS
    # Nobody but who was in mid-answer when a worker went sees anything of it.
    assert tally.broken <= tally.faults * 8
    await until(lambda: _descriptors(it) <= descriptors + MORE_DESCRIPTORS, "no more descriptors")
    assert _memory(it) < memory + MORE_MEMORY
    (backend,) = [b for b in await it.backends() if b["model"] == "m"]
    assert backend["in_flight"] == 0


async def _client(it: Stand, number: int, over: asyncio.Event, tally: Tally) -> None:
    """One request after the other; each has one right answer, which no other has."""
    rng = random.Random(number)
    count = 0
    while not over.is_set():
        count += 1
        answer = f"client {number} answer {count} " + "and so on " * rng.randrange(8)
        body: dict[str, object] = {"grammar": f'root ::= "{answer}"', "n_predict": 400}
        body |= {"ignore_eos": False}
        if rng.random() < 0.1:
            body["options"] = {"moe_cpu_layers": rng.randrange(LAYERS + 1)}
        seen = Seen()
        task = asyncio.ensure_future(it.stream(seen, **body))
        if rng.random() < 0.2:
            await asyncio.wait((task,), timeout=rng.random())
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))
                tally.left += 1
                continue
        await task
        if seen.ended and seen.text == answer:
            tally.whole += 1
        elif seen.outcome == "an error event" and answer.startswith(seen.text):
            tally.broken += 1
        else:
            tally.wrong.append(f"{answer!r}: {seen}"[:300])


async def _every(seconds: float, act: Callable[[], Awaitable[None]], over: asyncio.Event) -> None:
    while not over.is_set():
        await asyncio.wait((asyncio.ensure_future(over.wait()),), timeout=seconds)
        if not over.is_set():
            await act()


def _signal(it: Stand, number: signal.Signals, tally: Tally) -> Callable[[], Awaitable[None]]:
    async def send() -> None:
        for backend in await it.backends():
            if backend["state"] == "ready":
                tally.faults += 1
                os.kill(backend["pid"], number)

    return send


async def _change(it: Stand, rng: random.Random) -> None:
    """One of: the policy's split, a device's limit, the operator's split."""
    match rng.randrange(3):
        case 0:
            it.edit(moe_cpu_layers=rng.randrange(LAYERS + 1))
        case 1:
            it.edit_device(limit=rng.choice(("64MiB", "128MiB", "1GiB")))
        case _:
            for backend in await it.backends():
                split = {"moe_cpu_layers": rng.randrange(LAYERS + 1)}
                path = f"/admin/backends/{backend['id']}/split"
                async with it.session.put(path, json=split) as answer:
                    # 502: the worker was killed while it moved.
                    assert answer.status in (200, 404, 409, 502, 503), await answer.text()


def _memory(it: Stand) -> int:
    """Bytes that the proxy itself has in RAM."""
    status = Path(f"/proc/{it.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found.group(1)) << 10


def _descriptors(it: Stand) -> int:
    return len(os.listdir(f"/proc/{it.process.pid}/fd"))
