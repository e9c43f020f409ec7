"""Live moves on a real worker with a real device: same text as plain llama-server, while streams
run."""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.engine.hosted import HostedEngine
from proxy.engine.types import CPU, Status
from proxy.errors import BackendDied, Conflict
from proxy.worker.libraries import default_libdir
from proxy.worker.releases import rpc_is_for_one_thread
from tests.support.guard import HANG_S
from tests.support.llama import Client, libdir, plain_text
from tests.support.models import MOE_SHAPES, model
from tests.worker.conftest import Hosted
from tests.worker.test_soak import engine_device

pytestmark = pytest.mark.llama

# Then a device is told of as it was read last.
RPC_ALONE = rpc_is_for_one_thread(libdir() or default_libdir())
PROMPT = "the quick brown fox jumps over the lazy dog and then"


def first_on_cpu(status: Status, n: int) -> dict[int, str]:
    return {
        layer.index: CPU if layer.index < n else layer.attention_device for layer in status.layers
    }


async def split(engine: HostedEngine, n: int, settle_s: float = HANG_S) -> None:
    status = engine.known()
    move = await engine.place(first_on_cpu(status, n), settle_s=settle_s)
    assert move.short_of_memory is None
    assert not move.superseded
    # A dense first layer has no experts, so that N below it and N at it are the same state.
    indices = [layer.index for layer in status.layers]
    reached = engine.known().moe_cpu_layers
    assert [i < reached for i in indices] == [i < n for i in indices]


@contextlib.asynccontextmanager
async def streams(client: Client, count: int) -> AsyncIterator[list[str]]:
    """Keeps `count` completions running; gives the list of those that ended. Fails if one of them
    does. They are let end, not left: a request whose client has left may still be on its way when
    all slots are idle, and what shares a batch with others is computed by other kernels, so that a
    close call among the next tokens may end otherwise (in plain llama-server too)."""
    done: list[str] = []
    wanted = True

    async def one(number: int) -> None:
        while wanted:
            done.append(await client.text(f"{PROMPT} {number}", 40))

    tasks = [asyncio.ensure_future(one(i)) for i in range(count)]
    try:
        yield done
        for task in tasks:
            assert not task.done(), task.exception()
        wanted = False
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("shape", MOE_SHAPES)
async def test_text_equals_plain_llama_server_at_every_split(
    shape: str, hosted: Hosted, thorough: bool
) -> None:
    """Asked in random order while four streams run; compared with llama-server --n-cpu-moe N."""
    path = model(shape)
    async with hosted(path) as engine, Client(engine.address) as client:
        blocks = engine.known().block_count
        order = list(range(blocks + 1))
        random.Random(shape).shuffle(order)
        if not thorough:  # all on the device, all on the CPU, and one between
            order = [n for n in order if n in (0, 5, blocks)]
        texts: dict[int, str] = {}
        for n in order:
            async with streams(client, 4):
                await split(engine, n)
            texts[n] = await client.text(PROMPT)
    expected = {n: await plain_text(path, PROMPT, n) for n in order}

    assert texts == expected
    assert len(set(texts[blocks].split())) > 3, "the text should be able to differ"


async def test_no_prompt_is_evaluated_again_after_a_move(hosted: Hosted) -> None:
    async with hosted(model()) as engine, Client(engine.address) as client:
        first = await client.complete(PROMPT, 16, cache_prompt=True, id_slot=0)
        await split(engine, 0)
        follow_up = PROMPT + first["content"] + " and more"
        second = await client.complete(follow_up, 4, cache_prompt=True, id_slot=0)

        # All of the first turn but its last token, which was never decoded.
        known = first["tokens_evaluated"] + first["tokens_predicted"] - 1
        assert second["timings"]["cache_n"] >= known - 1
        assert second["timings"]["prompt_n"] < 10


async def test_moves_while_idle_need_no_slot(hosted: Hosted) -> None:
    async with hosted(model(), parallel=1) as engine, Client(engine.address) as client:
        before = await client.complete(PROMPT, 8, cache_prompt=True)
        steps = (await engine.memory())["steps"]
        for n in (0, 12, 6):
            await split(engine, n)
        assert (await engine.memory())["steps"] == steps
        again = await client.complete(PROMPT, 8, cache_prompt=True)

    assert again["content"] == before["content"]
    assert again["timings"]["prompt_n"] == 1, "the slot's cached prompt is still there"


async def test_demoting_everything_is_quick_and_gives_the_memory_back(hosted: Hosted) -> None:
    async with hosted(model()) as engine:
        await split(engine, 0)
        held = engine.known().held["RPC0"]["experts"]
        total = sum(layer.experts_bytes for layer in engine.known().layers)
        move = await engine.place(first_on_cpu(engine.known(), 12))
        after = engine.known().held["RPC0"]["experts"]

    assert held >= total
    assert after == 0
    assert move.layers == 12
    assert move.staged_s == 0


async def test_each_layer_goes_to_the_device_that_has_its_attention(hosted: Hosted) -> None:
    async with hosted(model(), devices=2) as engine, Client(engine.address) as client:
        await split(engine, 12)
        expected = await client.text(PROMPT)
        homes = {layer.index: layer.attention_device for layer in engine.known().layers}
        assert set(homes.values()) == {"RPC0", "RPC1"}

        await split(engine, 0)
        assert {x.index: x.experts for x in engine.known().layers} == homes
        assert await client.text(PROMPT) == expected

        # The placement may say otherwise: all experts to one of them.
        await engine.place(dict.fromkeys(homes, "RPC1"))
        assert {x.experts for x in engine.known().layers} == {"RPC1"}
        assert await client.text(PROMPT) == expected


async def test_a_later_target_supersedes_an_earlier_one(hosted: Hosted) -> None:
    async with hosted(model()) as engine:
        status = engine.known()
        earlier = asyncio.ensure_future(engine.place(first_on_cpu(status, 0)))
        await asyncio.sleep(0)
        later = await engine.place(first_on_cpu(status, 12))

        assert (await earlier).superseded
        assert not later.superseded
        assert engine.known().moe_cpu_layers == 12


async def test_repacked_experts_are_a_place_of_their_own(hosted: Hosted) -> None:
    """Q4_0 has a faster layout on this CPU: experts that stay are kept in it, those that leave free
    it."""
    path = model(quant="Q4_0")
    async with hosted(path) as engine, Client(engine.address) as client:
        await split(engine, 12)
        repacked = engine.known().held["CPU"]["experts"]
        text = await client.text(PROMPT)
        await split(engine, 0)
        assert engine.known().held["CPU"]["experts"] == 0
        await split(engine, 12)
        again = await client.text(PROMPT)
    expected = await plain_text(path, PROMPT, 12)
    async with hosted(path, repack="off") as engine:
        await split(engine, 12)
        mapped = engine.known().held["CPU"]["experts"]

    assert repacked > 0
    assert mapped == 0
    assert text == again == expected


async def test_the_end_of_repacking_is_told(hosted: Hosted) -> None:
    """Whoever waits for a quiet worker need not ask it."""
    async with hosted(model(quant="Q4_0")) as engine:
        for n in (0, 12):
            await engine.place(first_on_cpu(engine.known(), n))
            async with asyncio.timeout(HANG_S):
                while not engine.known().settled:
                    await asyncio.sleep(0.01)


async def test_a_bad_placement_changes_nothing(hosted: Hosted) -> None:
    async with hosted(model("deepseek2")) as engine:
        before = engine.known().layers, engine.known().held
        with pytest.raises(Conflict, match="layer 0 has no experts"):
            await engine.place({0: CPU})
        with pytest.raises(Conflict, match=r"layer 3: no device 'CUDA7'; there are CPU, RPC0"):
            await engine.place({3: "CUDA7"})

        assert (engine.known().layers, engine.known().held) == before


async def test_experts_go_to_no_device_that_the_model_is_not_computed_on(hosted: Hosted) -> None:
    """A user may divide it over some of the devices; on another one the next step would end the
    process."""
    async with (
        hosted(model(), devices=2, args=("--device", "RPC0")) as engine,
        Client(engine.address) as client,
    ):
        text = await client.text(PROMPT)
        assert [device.name for device in await engine.devices()] == [CPU, "RPC0"]
        with pytest.raises(Conflict, match=r"no device 'RPC1'; there are CPU, RPC0"):
            await engine.place({11: "RPC1"})
        await engine.place({11: "RPC0"})
        assert await client.text(PROMPT) == text
    async with hosted(model(), args=("--device", "none")) as engine:
        assert engine.why_no_moves == "the model is not computed on RPC0"
        assert not engine.moves_by_reload


async def test_a_device_that_hangs_keeps_no_other_question_waiting(hosted: Hosted) -> None:
    async with hosted(model()) as engine:
        device = engine_device(engine)
        os.kill(device, signal.SIGSTOP)
        try:
            async with asyncio.timeout(HANG_S):
                asked = asyncio.ensure_future(engine.devices())
                with pytest.raises(Conflict, match="no device 'CUDA7'"):
                    await engine.place({3: "CUDA7"})
                moved = asyncio.ensure_future(engine.place({3: "RPC0"}))
                assert (await engine.memory())["steps"] > 0
                assert not asked.done() or RPC_ALONE
                assert not moved.done()
        finally:
            os.kill(device, signal.SIGCONT)
        assert (await moved).layers == 1
        assert [device.name for device in await asked] == [CPU, "RPC0"]


@pytest.mark.parametrize(
    ("shape", "devices", "why"),
    [("qwen3", 1, "no experts"), ("qwen3moe", 0, "no device besides the CPU")],
)
async def test_says_why_nothing_can_move(
    shape: str, devices: int, why: str, hosted: Hosted
) -> None:
    async with hosted(model(shape), devices=devices) as engine, Client(engine.address) as client:
        assert not engine.live_moves
        assert not engine.moves_by_reload
        assert why in (engine.why_no_moves or "")
        assert await client.text(PROMPT)
        with pytest.raises(Conflict, match=why):
            await engine.place({3: "RPC0"})


async def test_without_live_moves_a_split_is_loaded(
    hosted: Hosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hosted(model(), split=5) as engine, Client(engine.address) as client:
        fixed = await client.text(PROMPT)
        assert engine.moves_by_reload
    monkeypatch.setenv("MOE_PROXY_NO_LIVE_MOVES", "1")
    async with hosted(model()) as engine:
        assert engine.moves_by_reload
        assert engine.why_no_moves == "MOE_PROXY_NO_LIVE_MOVES is set"
    monkeypatch.delenv("MOE_PROXY_NO_LIVE_MOVES")
    async with hosted(model()) as engine, Client(engine.address) as client:
        await split(engine, 5)
        assert await client.text(PROMPT) == fixed


async def test_a_worker_ends_when_the_proxy_is_gone(hosted: Hosted) -> None:
    """Whatever became of the proxy, its end of the worker's stdin is closed."""
    async with hosted(model()) as engine:
        process = engine._child._process
        assert process is not None
        assert process.stdin is not None
        process.stdin.close()
        assert await asyncio.wait_for(engine.wait_exit(), HANG_S) == 0


async def test_it_ends_although_a_driver_hangs(hosted: Hosted) -> None:
    """With a thread that asks for devices and one that copies, neither of which comes back."""
    async with hosted(model()) as engine:
        device = engine_device(engine)
        os.kill(device, signal.SIGSTOP)
        try:
            waiting = [
                asyncio.ensure_future(asked)
                for asked in (engine.devices(), engine.place({3: "RPC0"}))
            ]
            await engine.memory()  # they have been read
            process = engine._child._process
            assert process is not None
            assert process.stdin is not None
            process.stdin.close()
            async with asyncio.timeout(HANG_S):
                await engine.wait_exit()
                errors = await asyncio.gather(*waiting, return_exceptions=True)
        finally:
            os.kill(device, signal.SIGCONT)
    assert RPC_ALONE or type(errors[0]) is BackendDied
    assert type(errors[1]) is BackendDied


async def test_a_model_that_cannot_be_loaded_says_why(hosted: Hosted, tmp_path: Path) -> None:
    from proxy.errors import LoadFailed

    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(LoadFailed, match="failed to load model"):
        async with hosted(broken):
            pass


@pytest.mark.usefixtures("unchecked")
async def test_a_worker_that_fails_before_its_server_starts_says_so_at_once(
    hosted: Hosted,
) -> None:
    from proxy.errors import LoadFailed

    with pytest.raises(LoadFailed, match="IndexError"):
        async with hosted(model(), rpc=(), no_attention=("RPC0",), args=("--rpc",)):
            pass


async def test_one_slot_keeps_the_prompts_of_several_conversations(hosted: Hosted) -> None:
    """What another conversation has taken the slot from is in RAM: why one slot is enough for those
    who take turns."""
    talks = [f"{name} {PROMPT} " * 20 for name in ("first", "second")]
    async with hosted(model(), parallel=1) as engine, Client(engine.address) as client:
        for talk in talks:
            await client.complete(talk, 4, cache_prompt=True)
        again = await client.complete(talks[0] + "what", 4, cache_prompt=True)

    assert again["timings"]["cache_n"] > 200
    assert again["timings"]["prompt_n"] < 10
