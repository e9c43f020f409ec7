"""Every fault in every phase, against real processes: what clients saw, that the same model answers
the same text afterwards, and that no process is left behind."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.reliability import table
from tests.reliability.faults import FAULTS, Fault
from tests.reliability.phases import PHASES, Clients
from tests.reliability.stand import Seen, Stand, alive, stand
from tests.support.guard import HANG_S, until

pytestmark = [pytest.mark.llama, pytest.mark.alone]

GOES_ON = 60  # events after a fault, and an answer is taken to go on
WHOLE = "the whole answer"
# Nobody can answer until these are undone.
DEVICE = ("RPC server: kill -9", "RPC server: SIGSTOP")
PROXY = "proxy: kill -9"
# A load that gets no memory fails, and says so.
NO_ROOM = ("worker: no memory", "loading")
REFUSED = ("error 500", "error 502", "error 503")


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Stand]:
    async with stand(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """The one text that is compared, from the first test of them on."""
    return {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All cells of the table; in a short run every third: each fault in two phases, each phase with
    four faults."""
    if "fault" in metafunc.fixturenames:
        cells = [
            (fault, phase)
            for row, fault in enumerate(FAULTS)
            for column, phase in enumerate(PHASES)
            if metafunc.config.getoption("--thorough") or (row + column) % 3 == 0
        ]
        names = [f"{fault.name}, {phase}" for fault, phase in cells]
        metafunc.parametrize(("fault", "phase"), cells, ids=names)


async def test_fault(fault: Fault, phase: str, it: Stand, texts: dict[str, str]) -> None:
    clients = Clients()
    worker = await PHASES[phase](it, clients)
    watching = [asyncio.ensure_future(_end(task, seen)) for task, seen in clients.amid]
    caused_s = time.monotonic()

    await fault.cause(it, worker)

    amid = [await one for one in watching]
    for task, _ in clients.amid:
        task.cancel()
    without = [(await task, time.monotonic() - caused_s) for task in clients.without]
    undone_s = time.monotonic()
    if fault.undo is not None:
        await fault.undo(it)
    after = await it.ask()
    while (fault.name in DEVICE or (fault.name, phase) == NO_ROOM) and after.outcome in REFUSED:
        # It failed for a reason that lasted, and is tried again when the answer says.
        await asyncio.sleep(after.retry_after_s)
        after = await it.ask()
    again = await it.ask()
    whole_s = time.monotonic() - undone_s
    await asyncio.gather(*clients.other, return_exceptions=True)

    table.note(
        fault.name,
        phase,
        table.Cell(
            without=[(seen.outcome, taken_s) for seen, taken_s in without],
            amid=amid,
            whole_s=whole_s,
        ),
    )
    for seen in (after, again):
        assert seen.ended, (seen, it.log())
        assert seen.text == texts.setdefault("right", seen.text)
    for seen, _ in without:
        if fault.name == PROXY:
            assert seen.outcome == "the connection ends"
        elif fault.name in DEVICE or (fault.name, phase) == NO_ROOM:
            assert seen.outcome in (WHOLE, *REFUSED), seen
        else:
            assert seen.outcome == WHOLE, (seen, it.log())
    for outcome, _ in amid:
        assert outcome in ("goes on", "an error event") or fault.name == PROXY, outcome
    await _no_process_is_left(it)


async def _end(task: "asyncio.Task[Seen]", seen: Seen) -> tuple[str, float]:
    """How an answer that had begun goes on, and when that was clear, from now."""
    had, began_s = seen.events, time.monotonic()
    await until(lambda: task.done() or seen.events > had + GOES_ON, "an answer ends or goes on")
    outcome = "goes on" if not task.done() or seen.ended else seen.outcome
    return outcome, time.monotonic() - began_s


async def _no_process_is_left(it: Stand) -> None:
    """Only the worker that serves is there; and with the proxy it ends too."""
    (backend,) = [b for b in await it.backends() if b["model"] == "m"]
    assert backend["state"] == "ready"
    others = it.workers - {backend["pid"]}
    await until(lambda: not any(map(alive, others)), "earlier workers are gone")
    os.kill(it.process.pid, signal.SIGTERM)
    async with asyncio.timeout(HANG_S):
        assert await it.process.wait() == 0
    await until(lambda: not any(map(alive, it.workers)), "the last one is gone")
