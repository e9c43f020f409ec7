"""Whose expert cache becomes smaller, by how much, and when: whole layers go first."""

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proxy.control import cache_pressure
from proxy.control.cache_pressure import CachePressure, Holder, short_domains, smaller, to_shrink
from proxy.engine.types import CPU, Layer, LoadOptions, Status
from proxy.memory.snapshot import Snapshot
from proxy.observe.events import EventLog
from proxy.placement.device_budget import DeviceBudget
from proxy.placement.rebalance import Tenant
from proxy.pool.state import Backend, BackendState
from tests.support.guard import until
from tests.support.models import model

MIB = 1 << 20
SHORT = DeviceBudget(MIB, reserve_bytes=4 * MIB, low_bytes=2 * MIB)
ENOUGH = replace(SHORT, free_bytes=4 * MIB)
OPTIONS = LoadOptions("m", model(layers=4), cache_mib=64, cached_layers=3)


def tenant(*places: str) -> Tenant:
    layers = [Layer(i, place, MIB, "G") for i, place in enumerate(places)]
    return Tenant("b1", layers, frozenset(), auto=True)


@pytest.mark.parametrize(
    ("budgets", "tenants", "outbound", "short"),
    [
        ({"G": ENOUGH}, [], {}, {}),
        ({"G": SHORT}, [], {}, {"G": 3 * MIB}),
        ({"G": SHORT}, [tenant(CPU, CPU)], {}, {"G": 3 * MIB}),
        # A layer is there, or was and is not shown to have left: it is its turn.
        ({"G": SHORT}, [tenant(CPU, "G")], {}, {}),
        ({"G": SHORT}, [tenant(CPU, CPU)], {"G": 1}, {}),
        ({"G": SHORT, "H": SHORT}, [tenant(CPU, "H")], {}, {"G": 3 * MIB}),
    ],
)
def test_layers_go_first(
    budgets: Mapping[str, DeviceBudget],
    tenants: list[Tenant],
    outbound: Mapping[str, int],
    short: Mapping[str, int],
) -> None:
    assert short_domains(budgets, tenants, outbound) == short


def test_idle_ones_give_first_and_the_longest_unused_of_them() -> None:
    def holder(name: str, used_s: float, in_flight: int, domain: str = "G") -> Holder:
        backend = Backend(name, OPTIONS)
        backend.state, backend.in_flight, backend.last_used_s = (
            BackendState.READY,
            in_flight,
            used_s,
        )
        return Holder(backend, {domain: MIB})

    holders = [holder("busy", 1, 1), holder("new", 3, 0), holder("old", 2, 0)]
    holders.append(holder("elsewhere", 0, 0, "H"))

    found = to_shrink(holders, "G")
    assert found
    assert found.backend.id == "old"
    assert to_shrink(holders, "X") is None


@pytest.mark.parametrize(
    ("lacking", "least", "size"),
    [(1, 8, 32), (32, 8, 32), (40, 8, 24), (60, 8, 0), (64, 1, 0), (900, 1, 0), (1, 40, 0)],
)
def test_by_how_much(lacking: int, least: int, size: int) -> None:
    """Half of it, or what is lacking; and what is too small for a layer is none at all, so that all
    layers can move."""
    made = smaller(OPTIONS, lacking * MIB, least * MIB)

    assert made == replace(OPTIONS, cache_mib=size, cached_layers=3 if size else 0)


class Rig:
    """One backend with a cache on a device that is short, and a clock."""

    def __init__(self) -> None:
        self.now, self.budget = 0.0, SHORT
        self.backend = Backend("b1", OPTIONS)
        self.backend.state = BackendState.READY
        held = {"G": {"cache": 64 * MIB, "kv": 1}}
        self.backend.engine = cast(Any, SimpleNamespace(known=lambda: Status(4, held=held)))
        self.replaced: list[tuple[str, LoadOptions]] = []
        headroom = SimpleNamespace(
            budgets=lambda: {"G": self.budget},
            tenants=lambda: [],
            outbound=lambda: {},
            serving=lambda: [self.backend],
            by_domain=lambda sizes: sizes,
        )
        self.events = EventLog()
        self.pressure = CachePressure(
            pool=cast(Any, SimpleNamespace(replace=self.replace)),
            headroom=cast(Any, headroom),
            policies=cast(Any, lambda: SimpleNamespace(devices=SimpleNamespace(settle_s=10.0))),
            events=self.events,
            clock=cast(Any, SimpleNamespace(now=lambda: self.now)),
        )

    async def replace(self, backend: str, options: LoadOptions) -> None:
        self.replaced.append((backend, options))

    def look(self, now: float) -> None:
        self.now = now
        self.pressure.look(cast(Snapshot, None))


async def test_it_has_to_last_and_each_start_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_pressure, "_least", lambda _: MIB)
    rig = Rig()
    rig.look(0.0)
    rig.look(9.0)
    rig.budget = ENOUGH
    rig.look(11.0)
    rig.budget = SHORT
    rig.look(12.0)
    rig.look(21.0)
    assert not rig.replaced
    rig.look(22.0)
    await until(lambda: rig.replaced, "it is replaced")
    assert rig.replaced == [("b1", replace(OPTIONS, cache_mib=32))]
    # It could not be loaded, and the old one stays.
    for now in (23.0, 40.0, 60.0):
        rig.look(now)
    rig.backend.generation = 2
    rig.look(61.0)
    rig.look(71.0)
    await until(lambda: len(rig.replaced) == 2, "another start may be tried")
    (told, _) = [event.fields for event in rig.events.since(0)]
    assert (told["cache_bytes"], told["to_bytes"]) == (64 * MIB, 32 * MIB)
