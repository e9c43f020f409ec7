"""Live moves of a model without experts: its feed-forward weights, by the same means."""

import asyncio
import random
from pathlib import Path

import pytest

from proxy.engine.types import CPU
from proxy.errors import Conflict
from proxy.worker import releases
from proxy.worker.libraries import default_libdir
from tests.support.guard import HANG_S
from tests.support.llama import Client, libdir, plain_server, rpc_server
from tests.support.models import model
from tests.worker.conftest import Hosted
from tests.worker.test_live import PROMPT, split, streams

pytestmark = pytest.mark.llama

LAYERS = 6


async def plain_text(path: Path, n: int) -> str:
    """What plain llama-server says with `--n-cpu-ffn N`, where it has that."""
    knows = releases.knows(libdir() or default_libdir())("--n-cpu-ffn")
    layers = "|".join(map(str, range(n))) or "none"
    pattern = rf"blk\.({layers})\.ffn_(up|down|gate)\.=CPU"
    option = ("--n-cpu-ffn", str(n)) if knows else ("--override-tensor", pattern)
    async with rpc_server(threads=1) as rpc:
        arguments = ("--rpc", rpc, "-ngl", "999", *option, "-t", "1")
        more = ("-c", "8192", "-np", "4")
        async with plain_server(path, *arguments, *more) as address, Client(address) as plain:
            return await plain.text(PROMPT)


async def test_text_equals_plain_llama_server_while_streams_run(hosted: Hosted) -> None:
    path = model("qwen3", layers=LAYERS)
    order = [0, 2, 5, LAYERS]
    random.Random(1).shuffle(order)
    texts: dict[int, str] = {}
    async with hosted(path, dense=True, threads=1) as engine, Client(engine.address) as client:
        status = engine.known()
        assert engine.live_moves, engine.why_no_moves
        assert [x.experts for x in status.layers] == [CPU] * LAYERS
        assert {x.attention_device for x in status.layers} == {"RPC0"}
        for n in order:
            async with streams(client, 2) as done:
                await split(engine, n)
                async with asyncio.timeout(HANG_S):
                    while not done:
                        await asyncio.sleep(0.02)
            texts[n] = await client.text(PROMPT)
    expected = {n: await plain_text(path, n) for n in order}

    assert texts == expected
    assert len(set(texts[0].split())) > 3, "the text should be able to differ"


async def test_all_of_it_comes_to_the_device_and_leaves_it(hosted: Hosted) -> None:
    path = model("qwen3", layers=LAYERS)
    async with hosted(path, threads=1) as engine:
        whole = engine.known().held["RPC0"]["weights"]
    async with hosted(path, dense=True, threads=1) as engine:
        start = engine.known().held["RPC0"]
        await split(engine, 0)
        status = engine.known()
        moved, size = status.held["RPC0"]["experts"], sum(x.experts_bytes for x in status.layers)
        move = await engine.place(dict.fromkeys(range(LAYERS), CPU))
        left = engine.known().held["RPC0"]["experts"]

    assert start["experts"] == left == 0
    assert start["weights"] + size == whole
    assert moved >= size > 0
    assert move.layers == LAYERS


async def test_a_split_is_loaded_where_nothing_moves(
    hosted: Hosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = model("qwen3", layers=LAYERS)
    async with hosted(path, dense=True, split=2, threads=1) as engine:
        arguments = Path(f"/proc/{engine.pid}/cmdline").read_text().split("\0")
        assert engine.moves_by_reload
        async with Client(engine.address) as client:
            text = await client.text(PROMPT)
    assert "--dense" in arguments
    assert text == await plain_text(path, 2)


async def test_without_being_asked_for_a_dense_model_is_loaded_whole(hosted: Hosted) -> None:
    async with hosted(model("qwen3", layers=LAYERS), threads=1) as engine:
        status = engine.known()
        assert not status.layers
        assert engine.why_no_moves == "the model has no experts in host memory"
        assert status.held["RPC0"]["experts"] == 0
        with pytest.raises(Conflict, match="no experts"):
            await engine.place({3: "RPC0"})


async def test_experts_are_not_taken_for_feed_forward_weights(hosted: Hosted) -> None:
    async with hosted(model(), dense=True, threads=1) as engine:
        assert not engine.live_moves
        assert engine.why_no_moves == "the model has no feed-forward weights in host memory"
