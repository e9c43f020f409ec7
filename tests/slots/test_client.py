"""What llama-server itself does with slots, and what of it reaches us."""

import os
import signal
from pathlib import Path

import pytest

from proxy.engine.types import Address
from proxy.slots import client
from proxy.slots.client import SlotError, restore, save, slots_of
from tests.slots.talk import CTX, PARALLEL, next_prompt, story, turn
from tests.support.llama import Client, plain_server
from tests.support.models import model

pytestmark = pytest.mark.llama
ARGUMENTS = ("-c", str(CTX * PARALLEL), "-np", str(PARALLEL), "-t", "1")


async def test_a_slot_goes_over_into_another_server(tmp_path: Path) -> None:
    path, folder = model(layers=2), ("--slot-save-path", str(tmp_path))
    async with plain_server(path, *ARGUMENTS, *folder) as address, Client(address) as first:
        answer = await turn(first, story())
        at = answer["id_slot"]
        (slot,) = [slot for slot in await slots_of(address) if slot.tokens]
        saved = await save(address, at, "one")
        stays = await turn(first, next_prompt(story(), answer))
    async with plain_server(path, *ARGUMENTS, *folder) as address, Client(address) as second:
        assert await restore(address, 0, "one") == saved[0]
        goes_on = await turn(second, next_prompt(story(), answer))

    assert (slot.id, slot.tokens, slot.busy) == (at, saved[0], False)
    assert (tmp_path / "one").stat().st_size == saved[1]
    assert goes_on["timings"]["cache_n"] == stays["timings"]["cache_n"] == saved[0]
    assert (goes_on["id_slot"], goes_on["content"]) == (0, stays["content"])


async def test_a_slot_of_another_model_is_taken_without_a_word(tmp_path: Path) -> None:
    """Why the proxy looks at the model's file itself: nobody else does."""
    folder = ("--slot-save-path", str(tmp_path))
    async with (
        plain_server(model(layers=2), *ARGUMENTS, *folder) as address,
        Client(address) as first,
    ):
        answer = await turn(first, story())
        await save(address, answer["id_slot"], "one")
    other = model(layers=2, seed=1)
    async with plain_server(other, *ARGUMENTS, *folder) as address, Client(address) as second:
        await restore(address, 0, "one")

        assert (await turn(second, story()))["timings"]["cache_n"] > 0


async def test_what_it_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    path = model(layers=2)
    async with plain_server(path, *ARGUMENTS) as address:
        with pytest.raises(SlotError, match="slot-save-path"):
            await save(address, 0, "one")
    async with plain_server(path, *ARGUMENTS, "--slot-save-path", str(tmp_path)) as address:
        with pytest.raises(SlotError, match="Unable to restore slot"):
            await restore(address, 0, "never-saved")
        with pytest.raises(SlotError, match="Invalid filename"):
            await save(address, 0, "../one")


async def test_nobody_is_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LOOK_S", 0.2)
    with pytest.raises(SlotError, match="does not take connections"):
        await slots_of(Address(socket=str(tmp_path / "nobody.sock")))
    async with plain_server(model(layers=2), *ARGUMENTS) as address:
        os.kill(address.pid, signal.SIGSTOP)
        try:
            with pytest.raises(SlotError, match=r"within 0\.2 s"):
                await slots_of(address)
        finally:
            os.kill(address.pid, signal.SIGCONT)
