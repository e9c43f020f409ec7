"""Whatever happens in whatever order: random stories in a world without processes. Sizes are MiB.

Devices come, hang, share memory and are for experts only; models load, fail, shrink, idle, die and
leave; other programs take memory; policies are edited in the middle.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.engine.types import CPU
from proxy.placement.assign import placed
from proxy.placement.rebalance import Relocation
from proxy.split import AUTO, Split, cpu_layers
from tests.control.world.card import MIB, Card
from tests.control.world.engine import PLACE_DEADLINE_S, SimEngine, Spec
from tests.control.world.loop import run
from tests.control.world.world import POLL_S, RESERVE, World, living

MODELS = ("a", "b", "c")
LAYERS = 6
# All loads, moves and deadlines of a story are over after this, and memory has settled.
SETTLE_S = 2.0
CALM_S = 4 * PLACE_DEADLINE_S + 20 * SETTLE_S
ANSWER_S = 2 * PLACE_DEADLINE_S


@dataclass(frozen=True)
class Setting:
    """The machine of a story: cards by their devices, and models by where their attention is."""

    cards: tuple[tuple[int, tuple[str, ...], float], ...]  # size, devices, how late readings are
    expert_only: tuple[str, ...]
    limits: Mapping[str, int]
    homes: tuple[str, ...]
    layer_mib: tuple[int, ...]
    through_workers: bool
    load_s: float
    poll_takes_s: float

    def world(self) -> World:
        cards = [
            Card(f"card{i}", size, names, lag_s=lag)
            for i, (size, names, lag) in enumerate(self.cards)
        ]
        specs = {
            name: Spec(LAYERS, size, dense_mib=60, home=home, load_s=self.load_s)
            for name, home, size in zip(MODELS, self.homes, self.layer_mib, strict=True)
        }
        text = self.text({}, self.limits)
        return World(cards, specs, text, self.through_workers, self.poll_takes_s)

    def text(self, splits: Mapping[str, Split], limits: Mapping[str, int]) -> str:
        lines = [f'[devices]\nreserve = "{RESERVE}MiB"\nlow = "20MiB"\nsettle = "{SETTLE_S}s"']
        for name in sorted({*limits, *self.expert_only}):
            lines.append(f"[devices.{name}]")
            lines += [f'limit = "{limits[name]}MiB"'] if name in limits else []
            lines += ["attention = false"] if name in self.expert_only else []
        for name in MODELS:
            lines.append(f"[models.{name}]\nkeep_alive = '30s'")
            lines += [f"moe_cpu_layers = {splits[name]!r}"] if name in splits else []
        return "\n".join(lines)


@st.composite
def machines(draw: st.DrawFn) -> Setting:
    sizes, lags = st.integers(200, 1500), st.sampled_from([0.0, 0.7])
    kind = draw(
        st.sampled_from(["one", "two", "shared", "experts only", "shared, one for experts"])
    )
    first = (draw(sizes), ("G0", "G1") if kind.startswith("shared") else ("G0",), draw(lags))
    apart = kind in ("two", "experts only")
    cards = (first, (draw(sizes), ("G1",), draw(lags))) if apart else (first,)
    devices = [name for _, names, _ in cards for name in names]
    expert_only = ("G1",) if "experts" in kind else ()
    home = st.sampled_from([name for name in devices if name not in expert_only])
    limits = draw(st.dictionaries(st.sampled_from(devices), st.integers(100, 1000), max_size=1))
    return Setting(
        cards,
        expert_only,
        limits,
        homes=draw(st.tuples(home, home, home)),
        layer_mib=draw(st.tuples(*[st.integers(20, 150)] * 3)),
        through_workers=draw(st.booleans()),
        # Shorter and longer than it takes a device to show anything; polls that others overtake.
        load_s=draw(st.sampled_from([1.0, 8.0])),
        poll_takes_s=draw(st.sampled_from([0.0, 0.15])),
    )


splits = st.one_of(st.just(AUTO), st.integers(-1, LAYERS))
models = st.sampled_from(MODELS)
cards = st.integers(0, 1)
DEEDS = st.one_of(
    st.tuples(st.just("ask"), models, st.none() | splits, st.floats(0, 20)),
    st.tuples(st.just("ask"), models, st.none(), st.floats(0, 30)),
    st.tuples(st.just("operator"), models, splits),
    st.tuples(st.just("others"), cards, st.integers(0, 1200)),
    st.tuples(st.just("hang"), models, st.booleans()),
    st.tuples(st.just("refuse"), models, st.booleans()),
    st.tuples(st.just("die"), models),
    st.tuples(st.just("fails"), models, st.booleans()),
    st.tuples(st.just("unload"), models),
    st.tuples(st.just("card"), cards, st.booleans()),
    st.tuples(st.just("split"), models, splits),
    st.tuples(st.just("limit"), st.sampled_from(["G0", "G1"]), st.integers(0, 1000)),
)
Deed = tuple[Any, ...]
stories = st.lists(st.tuples(DEEDS, st.floats(0, 8)), min_size=1, max_size=14)


class Story:
    """Plays deeds in a world, and watches."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.world = setting, setting.world()
        self.splits: dict[str, Split] = {}
        self.limits = dict(setting.limits)
        # Readings may be older than what others have taken since.
        self._disturbed_s = {card.name: float("-inf") for card in self.world.cards}
        self._tasks: list[asyncio.Task[Any]] = []
        self.world.on_promoted = self._promoted
        controller = self.world.control.controller
        self._relocate, self.grown_beside_a_newcomer = controller.relocate, list[Relocation]()
        controller.relocate = self._balanced  # type: ignore[method-assign]

    def _balanced(self, relocations: Sequence[Relocation], whom: str | None = None) -> None:
        """What the balancer has move: nothing to where a newcomer's memory may yet come."""
        reserved = self.world.control.headroom.reserved()
        self.grown_beside_a_newcomer += [
            move for move in relocations if move.why == "free" and move.domain in reserved
        ]
        self._relocate(relocations, whom)

    def _promoted(self, engine: SimEngine, device: str, others_before: Mapping[str, int]) -> None:
        """Experts have just taken memory: none that is not to be theirs."""
        card = next(card for card in self.world.cards if device in card.devices)
        now, seen_s = self.world.clock.now(), 2 * POLL_S + card.lag_s
        if card.hangs or now - self._disturbed_s[card.name] < seen_s:
            return
        grown = max(card.others - others_before[device], 0)
        assert card.free + grown >= RESERVE, f"{engine.name} takes what is to be free: {card}"

    async def do(self, deed: Deed) -> None:
        world = self.world
        match deed:
            case "ask", model, split, for_s:
                world.ask(model, split, for_s=for_s)
            case "operator", model, split:
                self._start(world.control.controller.operator(model, split))
            case "others", number, size:
                card = world.cards[number % len(world.cards)]
                card.others_take(size, world.clock.now())
                self._disturbed_s[card.name] = world.clock.now()
            case "hang", model, hangs if model in world.engines:
                world.engines[model].hangs = hangs
            case "refuse", model, refuses if model in world.engines:
                world.engines[model].refuses = refuses
            case "die", model if model in world.engines:
                if world.engines[model].running:
                    world.engines[model].die()
            case "fails", model, fails:
                (world.cannot_load.add if fails else world.cannot_load.discard)(model)
            case "unload", model:
                self._start(world.pool.unload(model))
            case "card", number, hangs:
                card = world.cards[number % len(world.cards)]
                card.hangs = hangs
                self._disturbed_s[card.name] = world.clock.now()
            case "split", model, split:
                self.splits[model] = split
                await world.edit(self.setting.text(self.splits, self.limits))
            case "limit", device, limit:
                self.limits[device] = limit
                await world.edit(self.setting.text(self.splits, self.limits))

    def _start(self, coroutine: Any) -> None:
        self._tasks.append(asyncio.ensure_future(coroutine))

    async def calm(self) -> None:
        """From now on nothing happens from outside, and all that was asked for comes to an end."""
        for engine in self.world.engines.values():
            engine.hangs = engine.refuses = False
        for card in self.world.cards:
            card.hangs = False
            self._disturbed_s[card.name] = self.world.clock.now()
        await asyncio.sleep(CALM_S)
        assert not self.world.requests, "a request waits for ever"
        assert all(task.done() for task in self._tasks), "somebody waits for ever"
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def check_books(self) -> None:
        """What is shown is what is held."""
        world, desired = self.world, self.world.control.desired
        held: dict[str, int] = {}
        for backend in world.serving():
            status = backend.engine.known()
            engine = world.engines[backend.options.model]
            assert placed(status) == engine.places
            assert not desired.moving(backend)
            assert desired.goal(backend) in ({}, placed(status))
            for device, kinds in status.held.items():
                held[device] = held.get(device, 0) + sum(kinds.values())
        for card in world.cards:
            there = sum(card.ours.values()) * MIB
            assert there == sum(held.get(device, 0) for device in card.devices)
            for device in card.devices:
                assert world.ledger.ours(device) == held.get(device, 0)
        assert not world.control.headroom.inbound()
        readings = world.memory.latest().devices.values()
        if not any(reading.stale for reading in readings):  # else nobody is there to tell
            assert not any(world.control.headroom.outbound().values())

    def check_room(self) -> None:
        """No domain is short as long as somebody has experts to give; nobody lacks what is free."""
        headroom = self.world.control.headroom
        tenants = headroom.tenants()
        for domain, budget in headroom.budgets().items():
            there = [t for t in tenants if any(x.experts == domain for x in t.layers)]
            assert not (budget.deficit_bytes and there), (domain, budget)
            if any(budget.growth != "bulk" for budget in headroom.budgets().values()):
                continue
            for tenant in tenants:
                wanted = [x for x in tenant.layers if tenant.may_have(x, domain)]
                assert not wanted or wanted[-1].experts_bytes > budget.available_bytes, (
                    domain,
                    budget,
                    tenant,
                )

    def check_pinned(self) -> None:
        """Nobody has more on a device than was asked for."""
        for backend in self.world.serving():
            split = self.world.control.desired.split(backend)
            assert split is not None
            pinned = cpu_layers(split, LAYERS)
            places = placed(backend.engine.known())
            assert all(places[layer] == CPU for layer in pinned)


async def play(setting: Setting, story: Sequence[tuple[Deed, float]]) -> None:
    told = Story(setting)
    async with living(told.world):
        for deed, then_s in story:
            await told.do(deed)
            await asyncio.sleep(then_s)
        await told.calm()
        assert not told.grown_beside_a_newcomer
        told.check_books()
        told.check_room()
        told.check_pinned()
        moves = len(told.world.told("moved"))
        await asyncio.sleep(5 * SETTLE_S)
        assert len(told.world.told("moved")) == moves, "it does not come to rest"
        await check_it_goes_on(told)


async def check_it_goes_on(told: Story) -> None:
    told.world.cannot_load.clear()
    before = len(told.world.ended)
    told.world.ask("a")
    await asyncio.sleep(ANSWER_S)
    assert len(told.world.ended) == before + 1


# Each takes some ten milliseconds.
@settings(max_examples=12 * settings().max_examples)
@given(machines(), stories)
def test_random_stories(setting: Setting, story: Sequence[tuple[Deed, float]]) -> None:
    run(play(setting, story))
