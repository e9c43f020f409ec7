"""Who gives up device memory and who gets it, as tables and over random histories."""

import random
from collections.abc import Mapping
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from proxy.engine.types import CPU, Layer
from proxy.placement.rebalance import Changes, DeviceBudget, Growth, Tenant, make_way, rebalance

GB = 1 << 30
NONE: frozenset[int] = frozenset()


def layers(places: str, size: int = GB, device: str = "G") -> list[Layer]:
    """ "cGG" is three layers: the first on the CPU, two on the device."""
    return [Layer(i, device if p == "G" else CPU, size, device) for i, p in enumerate(places)]


def tenant(name: str, places: str, **more: object) -> Tenant:
    values: dict[str, object] = {"pinned_cpu": NONE, "auto": True} | more
    return Tenant(name, layers(places), **values)  # type: ignore[arg-type]


def budget(free_gb: float, **more: object) -> DeviceBudget:
    values: dict[str, object] = {"reserve": 2 * GB, "low": GB} | more
    return DeviceBudget(int(free_gb * GB), **values)  # type: ignore[arg-type]


class TestShrink:
    def test_demotes_back_to_the_reserve_in_one_go(self) -> None:
        changes = rebalance([tenant("a", "GGGG")], {"G": budget(0.5)})

        assert changes == Changes({"a": {0: CPU, 1: CPU}}, {"a": "pressure"})

    def test_nothing_between_low_and_reserve(self) -> None:
        assert not rebalance([tenant("a", "cGGG")], {"G": budget(1.5)}).moves

    def test_the_longest_unused_first_then_busy_ones_then_explicit_ones(self) -> None:
        tenants = [
            tenant("busy", "GG", busy=True, use=9.0),
            tenant("explicit", "cG", busy=True, auto=False, pinned_cpu={0}),
            tenant("new", "GG", last_used_s=5.0),
            tenant("old", "GG", last_used_s=1.0),
        ]

        assert list(rebalance(tenants, {"G": budget(-1.5)}).moves) == ["old", "new"]
        needs_all = rebalance(tenants, {"G": budget(-9)}).moves
        assert list(needs_all) == ["old", "new", "busy", "explicit"]

    def test_a_busy_one_first_gives_layers_that_are_meant_to_be_on_the_cpu(self) -> None:
        busy = tenant("a", "GGGG", busy=True, auto=False, pinned_cpu={2, 3})

        assert rebalance([busy], {"G": budget(0.5)}).moves == {"a": {2: CPU, 3: CPU}}
        assert rebalance([busy], {"G": budget(-0.5)}).moves == {"a": {2: CPU, 3: CPU, 0: CPU}}

    def test_a_limit_counts_though_memory_is_free(self) -> None:
        changes = rebalance([tenant("a", "GGGG")], {"G": budget(50, over_limit=GB + 1)})

        assert changes.moves == {"a": {0: CPU, 1: CPU}}

    def test_only_experts_of_the_device_that_is_short_leave(self) -> None:
        mixed = layers("GG", device="H") + [replace(x, index=x.index + 2) for x in layers("GG")]
        mixed = [replace(x, experts=x.attention_device) for x in mixed]
        changes = rebalance([Tenant("a", mixed, NONE, True)], {"G": budget(0.9), "H": budget(9)})

        assert changes.moves == {"a": {2: CPU, 3: CPU}}


class TestGrow:
    def test_from_the_last_layer_backwards_while_the_reserve_stays_free(self) -> None:
        assert rebalance([tenant("a", "cccG")], {"G": budget(3.5)}).moves == {"a": {2: "G"}}
        assert not rebalance([tenant("a", "cccG")], {"G": budget(2.9)}).moves

    def test_not_beyond_an_explicit_number(self) -> None:
        explicit = tenant("a", "cccG", auto=False, pinned_cpu={0, 1, 2})

        assert not rebalance([explicit], {"G": budget(50)}).moves

    def test_an_explicit_number_comes_back_when_memory_does(self) -> None:
        explicit = tenant("a", "cccG", auto=False, pinned_cpu={0})

        assert rebalance([explicit], {"G": budget(50, growth="step")}).moves == {"a": {2: "G"}}

    def test_layers_that_were_named_stay_on_the_cpu_wherever_they_are(self) -> None:
        explicit = Tenant("a", layers("ccccc", size=1), pinned_cpu={1, 4}, auto=False)

        assert set(rebalance([explicit], {"G": budget(50)}).moves["a"]) == {0, 2, 3}

    def test_stands_still_until_memory_has_settled(self) -> None:
        assert not rebalance([tenant("a", "cc")], {"G": budget(50, growth="frozen")}).moves

    def test_what_is_on_its_way_has_its_room_already(self) -> None:
        assert not rebalance([tenant("a", "cc")], {"G": budget(4, promised=2 * GB)}).moves

    def test_the_one_in_use_comes_first(self) -> None:
        tenants = [tenant("idle", "cc"), tenant("used", "cc", busy=True, use=3.0)]

        assert rebalance(tenants, {"G": budget(3.2)}).moves == {"used": {1: "G"}}

    def test_an_unused_backend_gives_way_to_one_in_use_when_it_is_time(self) -> None:
        tenants = [tenant("idle", "GG"), tenant("used", "cc", busy=True)]

        assert not rebalance(tenants, {"G": budget(2.1)}).moves
        traded = rebalance(tenants, {"G": budget(2.1, may_preempt=True)})
        assert traded == Changes({"idle": {0: CPU}}, {"idle": "use"})

    def test_unknown_memory_without_a_limit_is_no_room(self) -> None:
        unknown = DeviceBudget(None, reserve=0, low=0)

        assert not rebalance([tenant("a", "cc")], {"G": unknown}).moves
        limited = replace(unknown, over_limit=-GB)
        assert rebalance([tenant("a", "cc")], {"G": limited}).moves == {"a": {1: "G"}}


class TestMakeWay:
    def test_idle_experts_make_room_for_a_newcomer(self) -> None:
        changes, missing = make_way([tenant("a", "GGGG")], {"G": 3 * GB}, {"G": budget(4)})

        assert changes == Changes({"a": {0: CPU}}, {"a": "room"})
        assert not missing

    def test_says_what_is_missing_after_all_experts_have_left(self) -> None:
        _, missing = make_way([tenant("a", "cG")], {"G": 9 * GB}, {"G": budget(4)})

        assert missing == {"G": 6 * GB}

    def test_nothing_is_asked_of_a_device_whose_memory_is_not_known(self) -> None:
        unknown = DeviceBudget(None, reserve=0, low=0)

        assert make_way([tenant("a", "GG")], {"G": 9 * GB}, {"G": unknown}) == (Changes(), {})


class Machine:
    """A device with backends on it, and others who take and give memory; moves take a tick."""

    TOTAL = 24

    def __init__(self, tenants: dict[str, list[bool]], settle: int) -> None:
        self.on = tenants  # backend -> which layers are on the device
        self.others = 0
        self.settle = settle
        self.tick = 0
        self.short_at = -(10**9)
        self.recovering = False
        self.log: list[tuple[int, str]] = []

    @property
    def free(self) -> int:
        return self.TOTAL - self.others - sum(map(sum, self.on.values()))

    def step(self, others: int, busy: Mapping[str, bool]) -> None:
        self.tick += 1
        self.others = others
        now = DeviceBudget(self.free, reserve=3, low=2)
        if now.deficit:
            self.short_at, self.recovering = self.tick, True
        quiet = self.tick - self.short_at >= self.settle
        growth: Growth = "frozen" if not quiet else "step" if self.recovering else "bulk"
        tenants = [
            Tenant(
                name,
                [Layer(i, "G" if on else CPU, 1, "G") for i, on in enumerate(places)],
                pinned_cpu=NONE,
                auto=True,
                busy=busy[name],
                use=float(busy[name]),
            )
            for name, places in self.on.items()
        ]
        changes = rebalance(tenants, {"G": replace(now, growth=growth)})
        for name, moves in changes.moves.items():
            for layer, place in moves.items():
                self.on[name][layer] = place == "G"
                self.log.append((self.tick, place))


@given(
    st.lists(st.integers(0, 24), min_size=1, max_size=120),
    st.integers(1, 12),
    st.integers(0, 2**32),
)
def test_random_pressure_traces(others: list[int], settle: int, seed: int) -> None:
    """Short at most until the next look; never promoted into the reserve; no going back and forth
    by itself."""
    pick = random.Random(seed)
    machine = Machine({"a": [False] * 10, "b": [False] * 10}, settle)
    for taken in others:
        for _ in range(pick.randint(1, 2 * settle)):
            before = sum(map(sum, machine.on.values()))
            machine.step(taken, {"a": pick.random() < 0.5, "b": pick.random() < 0.5})
            after = sum(map(sum, machine.on.values()))
            if after > before:
                assert machine.free >= 3, "the reserve stays free"
            if before > after:
                assert machine.free >= 3 or after == 0, "back at the reserve in one go"
                assert machine.free - 1 < 3, "and no layer more than needed"

    # Nobody else moves from here on: what moves now moves in one direction only, and ends.
    start = machine.tick
    for _ in range(40 + settle):
        machine.step(others[-1], {"a": True, "b": False})
    places = [place for tick, place in machine.log if tick > start + 1]
    assert CPU not in places
    assert all(tick < start + 30 + settle for tick, _ in machine.log if tick > start)
