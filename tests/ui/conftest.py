"""A browser, and a proxy whose models share a card with other programs: one of each for all tests
of a file, which begin where `rig` brings it."""

from collections.abc import AsyncIterator, Mapping

import pytest
import pytest_asyncio

from tests.support.card import ON_CARD, SIZES, CardRig, card_rig
from tests.support.guard import until
from tests.support.models import model
from tests.support.playwright import Browser, browser
from tests.support.policies import Table

DENSE = 6  # layers of the model without experts
# Answers go on until somebody stops them, however slow the page is: a context that is full makes
# room for more.
ENDLESS: Table = {"args": ["--context-shift"], "params": {"ignore_eos": True}}
MODELS: Mapping[str, Table] = {
    "a": ENDLESS,
    "b": ENDLESS,
    # Its feed-forward weights move.
    "dense": {"path": model("llama", layers=DENSE, sizes=SIZES), "dense_cpu_layers": "auto"},
    # Its prompts are long enough to be seen being read.
    "long": {"path": model(layers=2, sizes=SIZES), "ctx": 8192, "parallel": 1},
    "embed": {"path": model("bert", layers=2)},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def program(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    async with browser(tmp_path_factory.mktemp("browser")) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def chromium(program: Browser) -> AsyncIterator[Browser]:
    yield program
    await program.close_pages()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[CardRig]:
    folder = tmp_path_factory.mktemp("rig")
    async with card_rig(folder, ("a", "b", "dense"), models=MODELS, RPC2=ON_CARD) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def rig(shared: CardRig) -> CardRig:
    """With model `a` alone loaded, all its experts on the device by itself, nobody asking, and the
    policies as they were at first."""
    at_first = shared.text({}, {})
    if shared.proxy.policies.read_text() != at_first:
        await shared.proxy.apply(at_first)
    shared.nvml.change(others=0)
    pool = shared.proxy.app.services.pool
    await until(lambda: not any(b.in_flight for b in pool.backends()), "nobody asks any more")
    for backend in pool.backends():
        if backend.options.model != "a":
            await pool.unload(backend.id)
    await shared.proxy.post("/admin/models/a/load")
    await shared.proxy.post("/admin/models/a/unpin")
    await shared.proxy.put("/admin/models/a/split", {"moe_cpu_layers": "auto"})
    await shared.all_of("a")
    return shared
