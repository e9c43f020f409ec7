"""Who gives up device memory and who gets it, as tables and over random histories."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from proxy.engine.types import CPU, Layer
from proxy.placement.device_budget import DeviceBudget, Growth
from proxy.placement.rebalance import Relocation, Tenant, make_room, rebalance

GB = 1 << 30
NONE: frozenset[int] = frozenset()


def layers(places: str, size: int = GB, attention: str = "G") -> list[Layer]:
    """ "cGG" is three layers: the first one's experts on the CPU, two on device G."""
    return [Layer(i, CPU if p == "c" else p, size, attention) for i, p in enumerate(places)]


def tenant(name: str, places: str, attention: str = "G", **more: object) -> Tenant:
    values: dict[str, object] = {"pinned_cpu": NONE, "auto": True} | more
    return Tenant(name, layers(places, attention=attention), **values)  # type: ignore[arg-type]


def budget(free_gb: float, **more: object) -> DeviceBudget:
    values: dict[str, object] = {"reserve_bytes": 2 * GB, "low_bytes": GB} | more
    return DeviceBudget(int(free_gb * GB), **values)  # type: ignore[arg-type]


def told(relocations: Sequence[Relocation]) -> list[str]:
    """ "a0 G pressure" for each: whose layer, which domain it leaves or comes to, and why."""
    return [f"{move.tenant}{move.layer} {move.domain} {move.why}" for move in relocations]


class TestShrink:
    def test_demotes_back_to_the_reserve_in_one_go(self) -> None:
        moves = rebalance([tenant("a", "GGGG")], {"G": budget(0.5)})

        assert told(moves) == ["a0 G pressure", "a1 G pressure"]
        assert [move.place for move in moves] == [CPU, CPU]

    def test_nothing_between_low_and_reserve(self) -> None:
        assert not rebalance([tenant("a", "cGGG")], {"G": budget(1.5)})

    def test_the_longest_unused_first_then_busy_ones_then_explicit_ones(self) -> None:
        tenants = [
            tenant("busy", "GG", busy=True, use=9.0),
            tenant("explicit", "cG", busy=True, auto=False, pinned_cpu={0}),
            tenant("new", "GG", last_used_s=5.0),
            tenant("old", "GG", last_used_s=1.0),
        ]

        some = rebalance(tenants, {"G": budget(-1.5)})
        assert [move.tenant for move in some] == ["old", "old", "new", "new"]
        everything = rebalance(tenants, {"G": budget(-9)})
        assert [move.tenant for move in everything[4:]] == ["busy", "busy", "explicit"]

    def test_a_busy_one_first_gives_layers_that_are_meant_to_be_on_the_cpu(self) -> None:
        busy = tenant("a", "GGGG", busy=True, auto=False, pinned_cpu={2, 3})

        assert [move.layer for move in rebalance([busy], {"G": budget(0.5)})] == [2, 3]
        assert [move.layer for move in rebalance([busy], {"G": budget(-0.5)})] == [2, 3, 0]

    def test_a_limit_counts_though_memory_is_free(self) -> None:
        moves = rebalance([tenant("a", "GGGG")], {"G": budget(50, over_limit_bytes=GB + 1)})

        assert told(moves) == ["a0 G pressure", "a1 G pressure"]

    def test_only_experts_of_the_device_that_is_short_leave(self) -> None:
        moves = rebalance([tenant("a", "HHGG")], {"G": budget(0.9), "H": budget(9)})

        assert told(moves) == ["a2 G pressure", "a3 G pressure"]


class TestGrow:
    def test_from_the_last_layer_backwards_while_the_reserve_stays_free(self) -> None:
        moves = rebalance([tenant("a", "cccG")], {"G": budget(3.5)})

        assert told(moves) == ["a2 G free"]
        assert [move.place for move in moves] == ["G"]
        assert not rebalance([tenant("a", "cccG")], {"G": budget(2.9)})

    def test_not_beyond_an_explicit_number(self) -> None:
        explicit = tenant("a", "cccG", auto=False, pinned_cpu={0, 1, 2})

        assert not rebalance([explicit], {"G": budget(50)})

    def test_an_explicit_number_comes_back_when_memory_does(self) -> None:
        explicit = tenant("a", "cccG", auto=False, pinned_cpu={0})

        assert told(rebalance([explicit], {"G": budget(50, growth="step")})) == ["a2 G free"]

    def test_layers_that_were_named_stay_on_the_cpu_wherever_they_are(self) -> None:
        explicit = Tenant("a", layers("ccccc", size=1), pinned_cpu={1, 4}, auto=False)

        assert [move.layer for move in rebalance([explicit], {"G": budget(50)})] == [3, 2, 0]

    def test_stands_still_until_memory_has_settled(self) -> None:
        assert not rebalance([tenant("a", "cc")], {"G": budget(50, growth="frozen")})

    def test_stands_still_while_anything_moves(self) -> None:
        tenants = [tenant("a", "cc"), tenant("b", "GG", moving=True)]

        assert not rebalance(tenants, {"G": budget(50)})

    def test_what_is_on_its_way_has_its_room_already(self) -> None:
        assert not rebalance([tenant("a", "cc")], {"G": budget(4, promised_bytes=2 * GB)})

    def test_the_one_in_use_comes_first(self) -> None:
        tenants = [tenant("idle", "cc"), tenant("used", "cc", busy=True, use=3.0)]

        assert told(rebalance(tenants, {"G": budget(3.2)})) == ["used1 G free"]

    def test_unknown_memory_without_a_limit_is_no_room(self) -> None:
        unknown = DeviceBudget(None, reserve_bytes=0, low_bytes=0)

        assert not rebalance([tenant("a", "cc")], {"G": unknown})
        limited = replace(unknown, over_limit_bytes=-GB)
        assert told(rebalance([tenant("a", "cc")], {"G": limited})) == ["a1 G free"]


class TestPreempt:
    TENANTS = (tenant("idle", "GG"), tenant("used", "cc", busy=True))

    def test_an_unused_backend_gives_way_to_one_in_use_when_it_is_time(self) -> None:
        assert not rebalance(self.TENANTS, {"G": budget(2.1)})
        traded = rebalance(self.TENANTS, {"G": budget(2.1, may_preempt=True)})
        assert told(traded) == ["idle0 G use"]

    def test_so_much_that_the_layer_fits_and_the_reserve_with_it(self) -> None:
        traded = rebalance(self.TENANTS, {"G": budget(1.5, may_preempt=True)})

        assert told(traded) == ["idle0 G use", "idle1 G use"]

    def test_not_where_that_is_not_enough(self) -> None:
        """The room would be nobody's: it is not enough for the one in use, and comes before the
        other one's turn."""
        assert not rebalance(self.TENANTS, {"G": budget(0.5, low_bytes=0, may_preempt=True)})

    def test_not_where_nobody_could_come(self) -> None:
        """The memory is not known, or the policy wants no experts there."""
        unknown = DeviceBudget(None, reserve_bytes=0, low_bytes=0, may_preempt=True)
        closed = budget(2.1, may_preempt=True, experts=False)

        assert not rebalance(self.TENANTS, {"G": unknown})
        assert not rebalance(self.TENANTS, {"G": closed})

    def test_not_where_another_device_has_room(self) -> None:
        used = tenant("used", "c", busy=True, expert_only={"H"})
        budgets = {"G": budget(2.1, may_preempt=True), "H": budget(9, may_preempt=True)}

        assert told(rebalance([tenant("idle", "GG"), used], budgets)) == ["used0 H free"]

    def test_for_one_layer_on_one_device(self) -> None:
        used = tenant("used", "c", busy=True, expert_only={"H"})
        others = [tenant("g", "GG"), tenant("h", "HH", "H")]
        budgets = {"G": budget(2.1, may_preempt=True), "H": budget(2.1, may_preempt=True)}

        assert told(rebalance([*others, used], budgets)) == ["g0 G use"]

    def test_not_while_anything_grows(self) -> None:
        budgets = {"G": budget(2.1, may_preempt=True), "H": budget(9)}

        moves = rebalance([*self.TENANTS, tenant("other", "c", "H")], budgets)

        assert told(moves) == ["other0 H free"]


def test_nothing_comes_in_a_round_in_which_something_has_to_leave() -> None:
    """What has left another device may want the room, and is in use."""
    homes = [Layer(0, "E", GB, "G"), Layer(1, "G", GB, "G")]
    busy = replace(tenant("busy", "", busy=True, expert_only={"E"}), layers=homes)
    budgets = {"E": budget(0.9), "G": budget(3.5)}

    assert told(rebalance([busy, tenant("idle", "c")], budgets)) == ["busy0 E pressure"]


class TestExpertsOnly:
    """A device E that takes experts of layers whose attention is on G."""

    GUEST = tenant("a", "cc", expert_only={"E"})

    def test_takes_what_has_no_room_with_its_attention(self) -> None:
        budgets = {"E": budget(3.5), "G": budget(3.5)}

        assert told(rebalance([self.GUEST], budgets)) == ["a1 G free", "a0 E free"]

    def test_a_layer_that_goes_home_goes_nowhere_else(self) -> None:
        """In whatever order the devices are looked at."""
        for budgets in ({"G": budget(9), "E": budget(9)}, {"E": budget(9), "G": budget(9)}):
            moves = rebalance([tenant("a", "c", expert_only={"E"})], budgets)

            assert told(moves) == ["a0 G free"]

    def test_a_layer_that_has_to_leave_comes_nowhere_in_the_same_round(self) -> None:
        leaving = tenant("a", "E", expert_only={"E"})

        assert told(rebalance([leaving], {"G": budget(9), "E": budget(0.5)})) == ["a0 E pressure"]

    def test_experts_stay_with_attention_on_the_cpu(self) -> None:
        left_there = tenant("a", "cc", CPU, expert_only={"E"})

        assert not rebalance([left_there], {"E": budget(9)})


class TestMakeRoom:
    def test_idle_experts_make_room_for_a_newcomer(self) -> None:
        moves, missing = make_room([tenant("a", "GGGG")], {"G": 3 * GB}, {"G": budget(4)})

        assert told(moves) == ["a0 G room"]
        assert not missing

    def test_says_what_is_missing_after_all_experts_have_left(self) -> None:
        _, missing = make_room([tenant("a", "cG")], {"G": 9 * GB}, {"G": budget(4)})

        assert missing == {"G": 6 * GB}

    def test_what_is_promised_to_others_and_the_reserve_are_made_up_for(self) -> None:
        """All that is needed leaves in one go."""
        promised = budget(1.5, promised_bytes=GB)

        moves, missing = make_room([tenant("a", "GGGG")], {"G": GB}, {"G": promised})

        assert len(moves) == 3
        assert not missing

    def test_a_limit_counts_what_is_promised(self) -> None:
        limited = budget(50, over_limit_bytes=-3 * GB, promised_bytes=2 * GB)

        moves, _ = make_room([tenant("a", "GGGG")], {"G": 2 * GB}, {"G": limited})

        assert told(moves) == ["a0 G room"]

    def test_nothing_is_asked_of_a_device_whose_memory_is_not_known(self) -> None:
        unknown = DeviceBudget(None, reserve_bytes=0, low_bytes=0)

        assert make_room([tenant("a", "GG")], {"G": 9 * GB}, {"G": unknown}) == ([], {})
        assert make_room([tenant("a", "GG")], {"G": 9 * GB}, {}) == ([], {})


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
        now = DeviceBudget(self.free, reserve_bytes=3, low_bytes=2)
        if now.deficit_bytes:
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
        for move in rebalance(tenants, {"G": replace(now, growth=growth)}):
            self.on[move.tenant][move.layer] = move.place == "G"
            self.log.append((self.tick, move.place))


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
