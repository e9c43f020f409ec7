"""The thread that moves experts, where no model is needed to see what it does."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proxy.worker.libraries import LlamaError
from proxy.worker.mover import Mover
from proxy.worker.next_step import MAPPED, REPACKED
from tests.support.guard import HANG_S

SIZE, LOW = 100, 150
MAPPED_ALL = dict.fromkeys(range(4), MAPPED)
ON_DEVICE = MAPPED_ALL | {2: "CUDA0", 3: "CUDA0"}


class Machine:
    """Experts that are places and nothing else, a gate that is always open, and so much RAM."""

    def __init__(self, ram: int) -> None:
        self.layers = {index: SimpleNamespace(place=MAPPED) for index in range(4)}
        self.ram = ram
        self.broken = False
        self.crowded: set[int] = set()  # layers that make room at the next swap
        self.changed = threading.Condition()
        self.repackable = frozenset(self.layers)
        self.gone = self.asleep = False
        self.found_anew = 0
        self.discarded: list[tuple[int, str]] = []
        self.held = False
        self.used_alone: list[tuple[str, bool]] = []  # what was done, and whether no step ran

    def places(self) -> dict[int, str]:
        return {index: layer.place for index, layer in self.layers.items()}

    def layer_bytes(self, _: int) -> int:
        return SIZE

    def stage(self, index: int, place: str, **_: object) -> tuple[int, str]:
        self.used_alone.append((f"stage {place}", self.held))
        return index, place

    def swap(
        self, _: object, *, demote: Sequence[int] = (), promote: tuple[int, str] | None = None
    ) -> list[int]:
        with self.changed:
            leaving = (*demote, *self.crowded)
            self.crowded = set()
            for index, place in (*((i, MAPPED) for i in leaving), *([promote] if promote else [])):
                self.layers[index].place = place
            self.changed.notify_all()
        return [*leaving]

    def free(self, buffers: Sequence[int]) -> None:
        if buffers:
            self.used_alone.append(("free", self.held))

    def free_forgotten(self) -> None:
        if self.gone:
            self.used_alone.append(("free", self.held))

    def discard(self, staged: tuple[int, str]) -> None:
        self.discarded.append(staged)

    def forget(self) -> bool:
        with self.changed:
            news = any(layer.place != MAPPED for layer in self.layers.values())
            for layer in self.layers.values():
                layer.place = MAPPED
            self.changed.notify_all()
        return news

    def discover(self, _: object) -> None:
        assert MAPPED_ALL == self.places()
        self.gone, self.found_anew = False, self.found_anew + 1

    @contextlib.contextmanager
    def hold(self) -> Iterator[Any]:
        if self.broken:
            raise OSError("nobody listens")
        if self.asleep:
            raise LlamaError("no model")
        assert not self.held
        self.held = True
        yield SimpleNamespace(held_s=lambda: 0.0)
        self.held = False

    def repacked(self) -> list[int]:
        return [index for index, layer in self.layers.items() if layer.place == REPACKED]

    @property
    def available(self) -> int:
        return self.ram - SIZE * len(self.repacked())

    def frees_its_model(self, *, asleep: bool) -> None:
        self.asleep = asleep
        self.gone = True

    def until_at(self, places: dict[int, str], *, found_anew: int) -> None:
        with self.changed:
            assert self.changed.wait_for(
                lambda: (self.places(), self.found_anew) == (places, found_anew), HANG_S
            )

    def until(self, *repacked: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.repacked() == [*repacked], HANG_S)


def mover_of(machine: Machine, **other: Any) -> Mover:
    options: dict[str, Any] = {
        "repackable": list(machine.layers),
        "repack_room": lambda size: machine.available - size >= LOW,
        "ram_short": lambda: machine.available < LOW,
        "notify": lambda: None,
        "look_s": 0.01,
        "calm_s": 0.0,
    }
    return Mover(cast(Any, machine), cast(Any, machine), **options | other)


def test_repacked_layers_are_given_back_when_ram_gets_short_and_come_back_after_it() -> None:
    machine = Machine(ram=10 * SIZE)
    mover = mover_of(machine)
    mover.start()
    try:
        machine.until(0, 1, 2, 3)
        assert mover.wait_settled(HANG_S)
        # Others take so much that two copies are too many, then so much that all are.
        machine.ram = LOW + 2 * SIZE
        machine.until(0, 1)
        assert mover.wait_settled(HANG_S)
        machine.ram = LOW
        machine.until()
        # An order from outside is carried out all the same.
        assert mover.place({3: "CUDA0"}).result(HANG_S).layers == 1
        assert machine.places() == {0: MAPPED, 1: MAPPED, 2: MAPPED, 3: "CUDA0"}

        machine.ram = 10 * SIZE
        machine.until(0, 1, 2)
        assert mover.wait_settled(HANG_S)
    finally:
        mover.stop()


def test_layers_are_repacked_once_there_is_room_for_the_first_of_them() -> None:
    machine = Machine(ram=LOW)
    mover = mover_of(machine)
    mover.start()
    try:
        assert mover.wait_settled(HANG_S)
        assert machine.repacked() == []

        machine.ram = 10 * SIZE
        machine.until(0, 1, 2, 3)
    finally:
        mover.stop()


def test_a_move_that_raises_is_told_and_the_next_one_is_made(
    capsys: pytest.CaptureFixture[str],
) -> None:
    machine = Machine(ram=LOW)
    mover = mover_of(machine)
    mover.start()
    try:
        machine.broken = True
        with pytest.raises(OSError, match="nobody listens"):
            mover.place({3: "CUDA0"}).result(HANG_S)
        assert mover.wait_settled(HANG_S)
        assert "Traceback" in capsys.readouterr().err

        assert machine.discarded == [(3, "CUDA0")]  # the copy that was not swapped in

        machine.broken = False
        assert mover.place({2: "CUDA0"}).result(HANG_S).layers == 1
        assert machine.places() == {0: MAPPED, 1: MAPPED, 2: "CUDA0", 3: MAPPED}
    finally:
        mover.stop()


def test_layers_that_had_to_make_room_do_not_come_back_by_themselves() -> None:
    machine = Machine(ram=LOW)
    mover = mover_of(machine)
    mover.start()
    try:
        mover.place(dict.fromkeys((1, 2, 3), "CUDA0")).result(HANG_S)
        machine.crowded = {2}
        assert mover.place({1: MAPPED}).result(HANG_S).short_of_memory == "CUDA0"
        assert mover.wait_settled(HANG_S)
        assert machine.places() == {0: MAPPED, 1: MAPPED, 2: MAPPED, 3: "CUDA0"}

        assert mover.place({2: "CUDA0"}).result(HANG_S).short_of_memory is None
        assert machine.places() == {0: MAPPED, 1: MAPPED, 2: "CUDA0", 3: "CUDA0"}
    finally:
        mover.stop()


def test_the_target_counts_for_a_model_that_was_loaded_anew() -> None:
    machine = Machine(ram=LOW)
    mover = mover_of(machine)
    mover.start()
    try:
        mover.place(ON_DEVICE).result(HANG_S)
        machine.frees_its_model(asleep=False)
        machine.until_at(ON_DEVICE, found_anew=1)

        machine.frees_its_model(asleep=False)
        assert mover.place({2: MAPPED}).result(HANG_S).layers == 1
        assert machine.places() == MAPPED_ALL | {3: "CUDA0"}
    finally:
        mover.stop()


def test_while_there_is_no_model_nothing_comes_and_nothing_has_to_leave(
    capsys: pytest.CaptureFixture[str],
) -> None:
    machine = Machine(ram=LOW)
    mover = mover_of(machine)
    mover.start()
    try:
        mover.place(ON_DEVICE).result(HANG_S)
        machine.frees_its_model(asleep=True)
        machine.until_at(MAPPED_ALL, found_anew=0)
        assert not mover.place(MAPPED_ALL).result(HANG_S).superseded
        with pytest.raises(LlamaError, match="no model"):
            mover.place({1: "CUDA0"}).result(HANG_S)

        machine.asleep = False
        assert mover.place({3: "CUDA0"}).result(HANG_S).layers == 1
        assert machine.places() == MAPPED_ALL | {3: "CUDA0"}
        assert capsys.readouterr().err == ""
    finally:
        mover.stop()


def test_the_thread_outlives_whatever_it_asks() -> None:
    """Else every later move would be waited for without end."""
    machine = Machine(ram=LOW)
    asked, told = threading.Event(), threading.Event()

    def ram_short() -> bool:
        asked.set()
        raise OSError("no such file")

    def notify() -> None:
        told.set()
        raise RuntimeError("the loop is closed")

    mover = mover_of(machine, ram_short=ram_short, notify=notify)
    mover.start()
    try:
        assert asked.wait(HANG_S)
        assert mover.place({3: "CUDA0"}).result(HANG_S).layers == 1
        assert told.wait(HANG_S)
        assert mover.place({2: "CUDA0"}).result(HANG_S).layers == 1
    finally:
        mover.stop()


@pytest.mark.parametrize("alone", [False, True])
def test_a_device_for_one_thread_is_used_while_no_step_runs(alone: bool) -> None:
    machine = Machine(ram=LOW)
    looked: list[bool] = []
    mover = mover_of(
        machine,
        alone=("RPC0",) if alone else (),
        look_at_them=lambda: looked.append(machine.held),
    )
    mover.start()
    try:
        for place in ("RPC0", "CUDA0", MAPPED):
            mover.place({3: place}).result(HANG_S)
        machine.frees_its_model(asleep=False)
        machine.until_at(MAPPED_ALL, found_anew=1)
    finally:
        mover.stop()

    used = machine.used_alone
    assert used[0] == ("stage RPC0", alone)
    assert ("stage CUDA0", False) in used, "another one waits for nobody"
    freed = [held for what, held in used if what == "free"]
    assert len(freed) > 1
    assert freed[0] == alone
    assert not alone or all(freed)
    assert looked == [True] * len(looked)
    assert bool(looked) == alone
