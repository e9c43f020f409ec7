"""Beside llama.cpp's expert cache: what it has never moves, the rest does. With a stand-in for a
build that has one (tests/support/cache_build), which ends a worker that moves what is cached."""

import ctypes as c
from collections.abc import AsyncIterator, Collection
from typing import Any, cast

import aiohttp
import pytest
import pytest_asyncio

from proxy.catalog.gguf_reader import read_header
from proxy.engine.hosted import HostedEngine
from proxy.engine.types import CPU, LoadOptions
from proxy.errors import Conflict, LoadFailed
from proxy.placement.estimate import estimate
from proxy.placement.footprint import settings_of
from proxy.worker.beside_cache import BesideCache
from proxy.worker.experts import movable_layers
from proxy.worker.llama import Tensor
from tests.support.cache_build import GIVEN, cache_build
from tests.support.hosted import hosted as worker
from tests.support.llama import Client, rpc_server
from tests.support.models import model
from tests.worker.conftest import Hosted
from tests.worker.test_live import PROMPT, split
from tests.worker.test_sleep import asleep, kept_awake

LAYERS, CACHED, CACHE_MIB = 12, 8, 5
DEVICE = "RPC0"


@pytest.mark.parametrize(
    ("found", "cached", "spared", "movable"),
    [
        ({0, 1, 2, 3}, set(), None, {0, 1, 2, 3}),
        ({0, 1, 2, 3}, set(), {2, 3}, {2, 3}),
        ({0, 1, 2, 3}, set(), set(), set()),
        # What was told to be left alone, and is in the cache all the same.
        ({0, 1, 2, 3}, {3}, {2, 3}, {2}),
        # Not found in host memory: it is no layer of ours, whoever spared it.
        ({0, 1}, set(), {1, 2}, {1}),
        # A cache that nobody told us of, as from a config file: we know only a part of what it has.
        ({0, 1, 2, 3}, {1}, None, set()),
    ],
)
def test_what_may_move(
    found: Collection[int],
    cached: Collection[int],
    spared: Collection[int] | None,
    movable: Collection[int],
) -> None:
    assert movable_layers(found, cached, spared) == movable
    if cached or spared is not None:
        assert not movable & set(cached)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def beside() -> AsyncIterator[HostedEngine]:
    """Of twelve layers, the first eight are in the cache."""
    async with (
        rpc_server() as rpc,
        worker(
            model(layers=LAYERS),
            [rpc],
            libdir=cache_build(),
            cache_mib=CACHE_MIB,
            cached_layers=CACHED,
        ) as engine,
    ):
        yield engine


@pytest.mark.llama
@pytest.mark.asyncio(loop_scope="module")
async def test_layers_move_beside_a_cache(beside: HostedEngine) -> None:
    status = beside.known()
    assert status.cached == tuple(range(CACHED))
    assert [layer.index for layer in status.layers] == [*range(CACHED, LAYERS)]
    assert status.moe_cpu_layers == LAYERS

    async with Client(beside.address) as client:
        text = await client.text(PROMPT)
        await split(beside, 0)
        on_device = await client.text(PROMPT)
        assert beside.known().moe_cpu_layers == CACHED
        held = beside.known().held[DEVICE]
        assert held["experts"] >= sum(layer.experts_bytes for layer in status.layers)
        await split(beside, LAYERS)
        again = await client.text(PROMPT)

    assert text == on_device == again
    assert beside.known().held[DEVICE]["experts"] == 0


@pytest.mark.llama
@pytest.mark.asyncio(loop_scope="module")
async def test_what_is_cached_is_refused_whatever_else_is_to_move(beside: HostedEngine) -> None:
    before = beside.known().layers
    for layer in (0, CACHED - 1):
        for place in (DEVICE, CPU):
            with pytest.raises(Conflict, match=f"layer {layer} is in the expert cache"):
                await beside.place({LAYERS - 1: DEVICE, layer: place})

    assert beside.known().layers == before


@pytest.mark.llama
@pytest.mark.asyncio(loop_scope="module")
async def test_the_cache_is_counted_by_itself(beside: HostedEngine) -> None:
    kinds = beside.known().held[DEVICE]

    assert kinds["cache"] == CACHE_MIB << 20
    path = model(layers=LAYERS)
    usual = settings_of(LoadOptions("test", path, ctx=2048, parallel=4))
    # Of a real one, up to a slot of it stays free.
    assert abs(kinds["kv"] - estimate(read_header(path), usual).kv_bytes) < 1 << 18


@pytest.mark.llama
async def test_where_all_is_cached_nothing_moves_and_it_says_why(hosted: Hosted) -> None:
    options = {"libdir": cache_build(), "cache_mib": CACHE_MIB, "cached_layers": LAYERS}
    async with hosted(model(layers=LAYERS), **options) as engine:
        assert not engine.live_moves
        assert not engine.moves_by_reload
        assert engine.why_no_moves == "its experts are in a cache on the device"
        assert engine.known().cached == tuple(range(LAYERS))
        assert engine.known().moe_cpu_layers == LAYERS
        with pytest.raises(Conflict):
            await engine.place({LAYERS - 1: DEVICE})


@pytest.mark.llama
@pytest.mark.skipif(bool(GIVEN), reason="these sizes are not too much or too little for a real one")
@pytest.mark.parametrize(
    ("cache_mib", "words"),
    [
        (1 << 26, "the device has no room for the expert cache: have a smaller moe_cache"),
        (1, "too small to hold the experts of one token: have another moe_cache, or 0 for none"),
    ],
)
async def test_a_cache_that_cannot_be_ends_the_load_with_the_key_to_change(
    hosted: Hosted, cache_mib: int, words: str
) -> None:
    options = {"libdir": cache_build(), "cache_mib": cache_mib, "cached_layers": CACHED}
    with pytest.raises(LoadFailed, match=words):
        async with hosted(model(layers=LAYERS), **options):
            pass


@pytest.mark.llama
async def test_without_a_device_there_is_no_cache(hosted: Hosted) -> None:
    options = {"libdir": cache_build(), "cache_mib": CACHE_MIB, "cached_layers": CACHED}
    async with hosted(model(layers=4), devices=0, **options) as engine:
        assert engine.known().cached == ()
        assert engine.why_no_moves == "there is no device besides the CPU"


@pytest.mark.llama
@pytest.mark.usefixtures("unchecked")
async def test_a_model_that_is_loaded_anew_has_its_cache_anew(hosted: Hosted) -> None:
    options = {"libdir": cache_build(), "cache_mib": CACHE_MIB, "cached_layers": CACHED}
    async with (
        hosted(model(layers=LAYERS), args=("--sleep-idle-seconds", "1"), **options) as engine,
        Client(engine.address) as client,
    ):
        await split(engine, 0)
        text = await client.text(PROMPT)
        await asleep(engine)
        async with kept_awake(client):
            await split(engine, 0)
        assert await client.text(PROMPT) == text
        assert engine.known().cached == tuple(range(CACHED))
        assert engine.known().moe_cpu_layers == CACHED


@pytest.mark.llama
@pytest.mark.skipif(bool(GIVEN), reason="a real one is seen, and then nothing moves")
@pytest.mark.usefixtures("unchecked")
async def test_the_stand_in_ends_who_moves_what_is_cached(hosted: Hosted) -> None:
    """What all of this is for: a cache that the worker does not know of."""
    cache = ("--moe-cache-mib", str(CACHE_MIB))
    async with (
        hosted(model(layers=LAYERS), libdir=cache_build(), args=cache) as engine,
        Client(engine.address) as client,
    ):
        await client.text(PROMPT)
        await split(engine, LAYERS - 1)
        with pytest.raises(aiohttp.ClientError):
            await client.text(PROMPT)
        assert await engine.wait_exit() != 0


class FakeLlama:
    """Two devices' worth of buffer types by number; a buffer's number says of which it is."""

    HOST, GPU = 1, 2

    def __init__(self) -> None:
        self.room = True
        self.buffers: list[int] = []
        self.models: dict[int, list[Any]] = {}

    def model(self, address: int, layers: int) -> list[Any]:
        names = [f"blk.{i}.{part}" for i in range(layers) for part in PARTS]
        tensors = [Tensor(name=name.encode(), data=100 + i) for i, name in enumerate(names)]
        for tensor in tensors:
            tensor.buffer = self.GPU if b"attn" in tensor.name else self.HOST
        self.models[address] = tensors
        return tensors

    def buffer_type(self, buffer: int) -> int:
        return self.HOST if buffer == self.HOST else self.GPU

    def buft_is_host(self, kind: int) -> bool:
        return kind == self.HOST

    def buft_device(self, kind: int) -> int:
        return kind

    def device_name(self, device: int) -> str:
        return CPU if device == self.HOST else DEVICE

    def device(self, _: str) -> int:
        return self.GPU

    def dev_buffer_type(self, device: int) -> int:
        return device

    def buft_alloc_size(self, *_: object) -> int:
        return 8

    def buft_alloc_buffer(self, *_: object) -> int | None:
        if not self.room:
            return None
        self.buffers.append(1000 + len(self.buffers))
        return self.buffers[-1]

    def buffer_set_usage(self, *_: object) -> None:
        pass

    def buffer_base(self, _: int) -> int:
        return 7

    def buffer_free(self, buffer: int) -> None:
        self.buffers.remove(buffer)

    # What the gate does:

    def tensors(self, model: int) -> list[int]:
        return [c.addressof(tensor) for tensor in self.models[model]]

    def contexts_by(self, *hooks: Any) -> None:
        self.begins, self.ends, self.goes = hooks

    def make(self, model: int, context: int | None = 5) -> set[int]:
        """A context; returns the layers of which a cache would see experts in host memory."""
        self.begins(model)
        seen = {
            int(tensor.name.split(b".")[1])
            for tensor in self.models[model]
            if b"exps" in tensor.name and self.buft_is_host(self.buffer_type(tensor.buffer))
        }
        self.ends(context)
        assert not self.buffers
        for tensor in self.models[model]:
            assert tensor.buffer in (self.HOST, self.GPU), "all is what it was"
            assert tensor.data >= 100
        return seen


PARTS = ("attn_q.weight", "ffn_up_exps.weight", "ffn_down_exps.weight")
MAIN, DRAFT = 64, 128


def test_layers_are_hidden_from_a_cache_and_back_afterwards() -> None:
    llama = FakeLlama()
    llama.model(MAIN, 6)
    beside = BesideCache(cast(Any, llama), cast(Any, llama), cached=4)

    assert beside.spared(MAIN) == set()
    assert llama.make(MAIN) == {0, 1, 2, 3}
    assert beside.spared(MAIN) == {4, 5}


def test_what_a_draft_model_makes_says_nothing_of_the_other() -> None:
    """Not even where that one could hide nothing."""
    llama = FakeLlama()
    for address in (MAIN, DRAFT):
        llama.model(address, 6)
    beside = BesideCache(cast(Any, llama), cast(Any, llama), cached=4)
    llama.room = False
    assert llama.make(MAIN) == set(range(6))
    llama.room = True
    llama.make(DRAFT)

    assert beside.spared(MAIN) == set()
    assert beside.spared(DRAFT) == {4, 5}
    # Nor does a second context of its own: the first one has made the cache.
    llama.make(MAIN)
    assert beside.spared(MAIN) == set()


def test_a_model_at_an_old_address_is_a_new_one() -> None:
    llama = FakeLlama()
    llama.model(MAIN, 6)
    beside = BesideCache(cast(Any, llama), cast(Any, llama), cached=4)
    llama.make(MAIN)
    llama.goes(MAIN)
    assert beside.spared(MAIN) == set()
    llama.model(MAIN, 5)
    llama.make(MAIN)
    assert beside.spared(MAIN) == {4}


def test_one_that_could_not_be_made_or_looked_into_spares_nothing() -> None:
    llama = FakeLlama()
    llama.model(MAIN, 6)
    beside = BesideCache(cast(Any, llama), cast(Any, llama), cached=4)
    llama.make(MAIN, context=None)
    assert beside.spared(MAIN) == set()
    llama.device = lambda _: 1 // 0  # type: ignore[method-assign]
    assert llama.make(MAIN) == set(range(6))
    assert beside.spared(MAIN) == set()
