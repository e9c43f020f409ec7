"""Tokens per second, from two looks at the slots."""

import asyncio
import json

import pytest
from structlog.testing import capture_logs

from proxy.clock import ManualClock
from proxy.observe import rates
from proxy.observe.rates import (
    Progress,
    Rates,
    SlotProgress,
    Start,
    progress_of,
    read_between,
    tokens_between,
)


def test_only_what_came_since_counts() -> None:
    before = {0: SlotProgress(5, 10), 1: SlotProgress(6, 3)}

    assert tokens_between(before, {0: SlotProgress(5, 14), 1: SlotProgress(6, 3)}) == 4
    assert tokens_between(before, {0: SlotProgress(7, 2), 1: SlotProgress(6, 5)}) == 4
    assert tokens_between({}, {0: SlotProgress(1, 9)}) == 9


def test_reads_the_slots_of_llama_server() -> None:
    slots = [
        {"id": 0, "id_task": 3, "next_token": [{"n_decoded": 7, "n_remain": -1}]},
        {"id": 1, "is_processing": False},
        {"id": 2, "id_task": 4, "next_token": {"n_decoded": 8}},
        {"id": 3, "id_task": 5, "next_token": []},
        {"id": 4, "id_task": 6, "next_token": [{"n_decoded": None}]},
        {"id": 5, "id_task": None, "next_token": None},
    ]

    assert progress_of(json.dumps(slots).encode()) == {0: SlotProgress(3, 7), 2: SlotProgress(4, 8)}


def test_a_prompt_counts_while_it_is_read() -> None:
    # The first of these is how many are in the slot, which is no more than it says of them.
    reads = {"n_prompt_tokens": 584, "n_prompt_tokens_processed": 512, "n_prompt_tokens_cache": 8}
    slots = [
        {"id": 0, "id_task": 3, "next_token": [{"n_decoded": 0}], "is_processing": True, **reads},
        {"id": 1, "id_task": 4, "next_token": [{"n_decoded": 2}], "is_processing": True, **reads},
        {"id": 2, "id_task": 1, "next_token": [{"n_decoded": 0}], "is_processing": False, **reads},
    ]

    found = progress_of(json.dumps(slots).encode())

    assert found == {
        0: SlotProgress(3, 0, 520, depth=584),
        1: SlotProgress(4, 2, depth=584),
        2: SlotProgress(1, 0, busy=False, depth=584),
    }


def test_what_is_read_of_a_prompt_that_both_looks_saw() -> None:
    before = {0: SlotProgress(3, 0, 520), 1: SlotProgress(4, 0, 50)}
    after = {0: SlotProgress(3, 0, 720), 1: SlotProgress(5, 0, 40), 2: SlotProgress(6, 9)}

    assert read_between(before, after) == 200


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff",
        b'{"error": {}}',
        b"[null]",
        b"[7]",
        b'[{"id": "first", "id_task": 1, "next_token": [{"n_decoded": 1}]}]',
        b'[{"id": null}]',
        b'[{"id": 0, "id_task": "x", "next_token": [{"n_decoded": 1}]}]',
        b'[{"id": 0, "id_task": 1, "next_token": [{"n_decoded": "1"}]}]',
        b'[{"id": 0, "id_task": 1, "next_token": [{"n_decoded": 1' + b"0" * 400 + b"}]}]",
        b'[{"id": 0, "id_task": 1, "next_token": "soon"}]',
        b"[" * 100_000,
    ],
)
def test_what_llama_server_would_not_say_says_nothing(answer: bytes) -> None:
    assert progress_of(answer) is None


class Engines:
    """What each start tells next."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.busy: list[Start] = []
        self.tells: dict[Start, Progress | Exception | None] = {}
        self.held: dict[Start, asyncio.Event] = {}
        self.rates = Rates(lambda: self.busy, self._read, clock=self.clock)

    async def _read(self, start: Start) -> Progress | None:
        if start in self.held:
            await self.held[start].wait()
        told = self.tells[start]
        if isinstance(told, Exception):
            raise told
        return told

    async def sample(self, after_s: float, **tokens: int) -> None:
        await self.clock.advance(after_s)
        self.tells |= {(name, 1): {0: SlotProgress(1, count)} for name, count in tokens.items()}
        await self.rates.sample()


async def test_a_busy_backend_has_a_rate_and_an_idle_one_has_none() -> None:
    engines = Engines()
    engines.busy = [("b1", 1)]
    await engines.sample(0, b1=10)
    assert engines.rates.rate("b1") == 0.0
    await engines.sample(2, b1=40)
    assert engines.rates.rate("b1") == 15.0

    engines.busy = []
    assert engines.rates.rate("b1") == 0.0
    await engines.sample(1)
    engines.busy = [("b1", 1)]
    await engines.sample(100, b1=50)
    assert engines.rates.rate("b1") == 0.0, "what it did in between is not known"


async def test_a_restarted_backend_counts_from_nothing() -> None:
    engines = Engines()
    engines.busy = [("b1", 1)]
    await engines.sample(0, b1=10)
    await engines.sample(1, b1=40)
    assert engines.rates.rate("b1") == 30.0

    engines.busy = [("b1", 2)]
    engines.tells["b1", 2] = {0: SlotProgress(1, 45)}
    assert engines.rates.rate("b1") == 0.0
    await engines.sample(1)
    assert engines.rates.rate("b1") == 0.0
    engines.tells["b1", 2] = {0: SlotProgress(1, 50)}
    await engines.sample(1)
    assert engines.rates.rate("b1") == 5.0


async def test_one_that_hangs_or_fails_holds_up_no_other() -> None:
    engines = Engines()
    engines.busy = [("slow", 1), ("broken", 1), ("silent", 1), ("well", 1)]
    engines.tells |= {("broken", 1): KeyError("slots"), ("silent", 1): None}
    with capture_logs() as logs:
        await engines.sample(0, slow=10, well=10)
        engines.held["slow", 1] = asyncio.Event()
        sampling = asyncio.create_task(engines.sample(1, slow=30, well=20))
        while engines.rates.rate("well") != 10.0:
            await asyncio.sleep(0)
        assert engines.rates.rate("slow") == 0.0
        await engines.clock.advance(1)
        engines.held["slow", 1].set()
        await sampling

    assert engines.rates.rate("slow") == 10.0, "it is as of when it answered"
    assert [engines.rates.rate(name) for name in ("broken", "silent")] == [0.0, 0.0]
    assert [line["backend"] for line in logs] == ["broken", "broken"]


async def test_it_samples_each_second() -> None:
    engines = Engines()
    engines.busy = [("b1", 1)]
    engines.tells["b1", 1] = {0: SlotProgress(1, 0)}
    running = asyncio.create_task(engines.rates.run())
    await engines.clock.advance(1)
    engines.tells["b1", 1] = {0: SlotProgress(1, 7)}
    await engines.clock.advance(1)

    assert engines.rates.rate("b1") == 7.0
    running.cancel()


async def test_while_nobody_is_served_it_waits_for_who_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "IDLE_S", 3600.0)
    engines = Engines()
    engines.tells["b1", 1] = {0: SlotProgress(1, 0)}
    running = asyncio.create_task(engines.rates.run())
    await engines.clock.advance(10)
    engines.busy = [("b1", 1)]
    await engines.clock.advance(10)
    assert not engines.rates.progress(("b1", 1)), "it sleeps without looking at a clock"

    engines.rates.begin()
    await engines.clock.advance(1)
    assert engines.rates.progress(("b1", 1))

    engines.busy = []
    await engines.clock.advance(1)
    assert not engines.rates.progress(("b1", 1)), "what was seen is forgotten"
    running.cancel()
