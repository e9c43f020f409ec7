"""Rounds of giving and taking over random machines: one to three domains (some for experts only,
some of two devices, some with limits, unknown sizes or promises) and one to four backends."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from proxy.engine.types import CPU, Layer
from proxy.placement.device_budget import DeviceBudget, Growth
from proxy.placement.rebalance import GROW_BYTES, Relocation, Tenant, make_room, rebalance

# So that some layers are more than what comes at a time, and some are less.
UNIT = GROW_BYTES // 4
DOMAINS = ("G", "H", "E")


@dataclass(frozen=True)
class Machine:
    budgets: dict[str, DeviceBudget]
    tenants: tuple[Tenant, ...]

    def after(self, moves: Iterable[Relocation]) -> "Machine":
        """Once all has moved, and the devices show it."""
        budgets, places = dict(self.budgets), {}
        for move in moves:
            size = self.layer(move).experts_bytes
            freed = size if move.place == CPU else -size
            budgets[move.domain] = budgets[move.domain].with_freed(freed)
            places[move.tenant, move.layer] = move.place
        tenants = (
            replace(
                tenant,
                layers=[
                    replace(layer, experts=places.get((tenant.id, layer.index), layer.experts))
                    for layer in tenant.layers
                ],
            )
            for tenant in self.tenants
        )
        return Machine(budgets, tuple(tenants))

    def tenant(self, move: Relocation) -> Tenant:
        return next(tenant for tenant in self.tenants if tenant.id == move.tenant)

    def layer(self, move: Relocation) -> Layer:
        return next(x for x in self.tenant(move).layers if x.index == move.layer)

    def held(self, domain: str, tenants: Iterable[Tenant]) -> set[tuple[str, int]]:
        return {(t.id, x.index) for t in tenants for x in t.layers if x.experts == domain}

    def bytes(self, moves: Iterable[Relocation]) -> int:
        return sum(self.layer(move).experts_bytes for move in moves)


def sizes(low: int, high: int) -> st.SearchStrategy[int]:
    return st.integers(low, high).map(lambda units: units * UNIT)


@st.composite
def device_rooms(draw: st.DrawFn) -> DeviceBudget:
    reserve_bytes = draw(sizes(0, 8))
    filled = draw(st.sampled_from(["full", "full", "roomy", "roomy", "roomy", "short", "unknown"]))
    bounds = {"full": (0, 4), "roomy": (4, 24), "short": (-8, 0)}.get(filled)
    return DeviceBudget(
        free_bytes=None if bounds is None else reserve_bytes + draw(sizes(*bounds)),
        reserve_bytes=reserve_bytes,
        low_bytes=draw(st.sampled_from([0, reserve_bytes // 2, reserve_bytes])),
        over_limit_bytes=draw(st.none() | st.none() | st.none() | sizes(-16, 4)),
        experts=draw(st.integers(0, 9)) < 9,
    )


@st.composite
def domain_rooms(draw: st.DrawFn) -> DeviceBudget:
    """Of one device, or of two on one card."""
    devices = [draw(device_rooms()) for _ in range(draw(st.sampled_from([1, 1, 2])))]
    budget = reduce(DeviceBudget.merge, devices)
    growths: list[Growth] = ["bulk", "bulk", "bulk", "bulk", "step", "frozen"]
    return replace(
        budget,
        promised_bytes=draw(st.just(0) | st.just(0) | sizes(0, 4)),
        growth=draw(st.sampled_from(growths)),
        may_preempt=draw(st.booleans()),
    )


@st.composite
def tenants_on(draw: st.DrawFn, name: str, domains: Sequence[str]) -> Tenant:
    layers = [
        Layer(
            index,
            draw(st.sampled_from([CPU, *domains])),
            draw(sizes(1, 5)),
            draw(st.sampled_from([*domains, *domains, *domains, CPU])),
        )
        for index in range(draw(st.integers(2, 6)))
    ]
    return Tenant(
        name,
        layers,
        pinned_cpu=draw(st.just(frozenset()) | st.frozensets(st.integers(0, 5), max_size=3)),
        auto=draw(st.booleans()),
        busy=draw(st.booleans()),
        use=draw(st.sampled_from([0.0, 1.0, 2.0])),
        last_used_s=draw(st.sampled_from([0.0, 1.0, 2.0])),
        expert_only=draw(st.frozensets(st.sampled_from(domains), max_size=1)),
    )


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    domains = DOMAINS[: draw(st.integers(1, 3))]
    names = "abcd"[: draw(st.sampled_from([1, 2, 2, 3, 3, 4]))]
    order = draw(st.permutations(domains))
    return Machine(
        {domain: draw(domain_rooms()) for domain in order},
        tuple(draw(tenants_on(name, domains)) for name in names),
    )


def check_moves(machine: Machine, moves: Sequence[Relocation]) -> None:
    """What holds for every round, whatever for."""
    assert len({(move.tenant, move.layer) for move in moves}) == len(moves), "no layer moves twice"
    assert len({move.why for move in moves}) <= 1, "for one reason"
    for move in moves:
        layer = machine.layer(move)
        assert layer.experts == (move.domain if move.place == CPU else CPU), "it comes or leaves"
    for domain in machine.budgets:
        here = [move for move in moves if move.domain == domain]
        leaving = [move for move in here if move.place == CPU]
        assert leaving in ([], here), "no domain gives and takes at once"
        trade = any(move.why == "use" for move in leaving)
        tenants = [tenant for tenant in machine.tenants if trades(tenant) or not trade]
        turns = in_their_turn(domain, tenants)
        gone = [(move.tenant, move.layer) for move in leaving]
        assert gone == turns[: len(gone)], "in their turn"


def trades(tenant: Tenant) -> bool:
    """Whether it gives way to one that is in use."""
    return tenant.auto and not tenant.busy


def in_their_turn(domain: str, tenants: Sequence[Tenant]) -> list[tuple[str, int]]:
    """Layers in the order in which they have to leave: idle backends' first, and last those that
    somebody wants on a device of one that is in use."""

    def turn(tenant: Tenant, layer: Layer) -> tuple[float, float, float]:
        if not tenant.busy:
            return 0, tenant.last_used_s, 0
        wanted = not tenant.auto and layer.index not in tenant.pinned_cpu
        return 1 + wanted, tenant.use, tenant.last_used_s

    held = [(t, x) for t in tenants for x in t.layers if x.experts == domain]
    return [(t.id, x.index) for t, x in sorted(held, key=lambda pair: turn(*pair))]


@given(machines())
def test_a_round_gives_and_takes_no_more_than_it_may(machine: Machine) -> None:
    moves = rebalance(machine.tenants, machine.budgets)

    check_moves(machine, moves)
    for domain, budget in machine.budgets.items():
        here = [move for move in moves if move.domain == domain]
        match here[0].why if here else None:
            case "free":
                assert machine.bytes(here) <= budget.available_bytes
                assert budget.growth != "frozen"
                assert budget.growth == "bulk" or len(here) == 1
                assert len(here) == 1 or machine.bytes(here) <= GROW_BYTES
            case "use":
                assert budget.may_preempt
                assert all(map(trades, map(machine.tenant, here)))
                assert here == moves, "one trade at a time"
            case "pressure":
                assert budget.deficit_bytes
                assert machine.bytes(here[:-1]) < budget.deficit_bytes, "no layer more than needed"
        if machine.bytes(here) < budget.deficit_bytes:
            left = machine.after(moves)
            assert not left.held(domain, left.tenants), "what is missing is nowhere to be had"


@given(machines())
def test_what_comes_is_where_it_may_be(machine: Machine) -> None:
    for move in rebalance(machine.tenants, machine.budgets):
        if move.place != CPU:
            tenant, layer = machine.tenant(move), machine.layer(move)
            assert layer.index not in tenant.pinned_cpu
            assert layer.attention_device != CPU
            assert move.domain in {layer.attention_device, *tenant.expert_only}


@given(machines())
def test_left_alone_it_comes_to_rest(machine: Machine) -> None:
    """Memory that nobody else touches: one shrink at most, nothing is taken from one that just got
    it, and it ends."""
    came: set[tuple[str, int]] = set()
    made_for_use: set[str] = set()
    for round_number in range(1 + 2 * sum(len(tenant.layers) for tenant in machine.tenants)):
        moves = rebalance(machine.tenants, machine.budgets)
        taken = {m.domain for m in moves if m.place != CPU and machine.tenant(m).busy}
        assert made_for_use <= taken, "what was made for one in use, it takes"
        made_for_use = {move.domain for move in moves if move.why == "use"}
        if not moves:
            return
        for move in moves:
            assert round_number == 0 or move.why != "pressure", "growing never causes a shrink"
            if move.place == CPU:
                assert (move.tenant, move.layer) not in came, "back and forth"
            else:
                came.add((move.tenant, move.layer))
        machine = machine.after(moves)
    raise AssertionError("it never ends")


@given(machines(), st.dictionaries(st.sampled_from(DOMAINS), sizes(1, 24), min_size=1))
def test_room_is_made_in_one_go_and_not_more_than_needed(
    machine: Machine, needed: dict[str, int]
) -> None:
    moves, missing = make_room(machine.tenants, needed, machine.budgets)

    check_moves(machine, moves)
    assert all(move.why == "room" and move.domain in needed for move in moves)
    after = machine.after(moves)
    for domain, size in needed.items():
        spare = machine.budgets[domain].spare_bytes if domain in machine.budgets else None
        here = [move for move in moves if move.domain == domain]
        if spare is None:
            assert not here
            assert domain not in missing, "it has to try"
            continue
        assert machine.bytes(here[:-1]) < max(size - spare, 1)
        lacking = size - (after.budgets[domain].spare_bytes or 0)
        assert missing.get(domain, 0) == max(lacking, 0)
        if domain in missing:
            assert not after.held(domain, after.tenants)
    assert make_room(after.tenants, needed, after.budgets) == ([], missing)


@given(machines())
def test_a_domain_of_which_nothing_is_known_is_left_alone(machine: Machine) -> None:
    unknown = DeviceBudget(None, reserve_bytes=UNIT, low_bytes=UNIT, may_preempt=True)
    first = next(iter(machine.budgets))

    moves = rebalance(machine.tenants, machine.budgets | {first: unknown})

    assert first not in {move.domain for move in moves}


@given(machines())
def test_while_experts_are_on_their_way_others_only_leave(machine: Machine) -> None:
    first, *others = machine.tenants

    moves = rebalance([replace(first, moving=True), *others], machine.budgets)

    assert {move.why for move in moves} <= {"pressure"}
