"""The thread that moves experts: one target at a time, the newest wins, the gate held only to swap.

`next_step` decides, `Experts` does the work; this is the loop between them and the callers
that wait.
"""

import contextlib
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from proxy.engine.types import Move
from proxy.worker.experts import Experts, Staged
from proxy.worker.gate import Gate, HeldGate
from proxy.worker.libraries import LlamaError
from proxy.worker.llama import ModelGoneError
from proxy.worker.next_step import (
    MAPPED,
    REPACKED,
    Demote,
    Promote,
    Repack,
    Step,
    Unpack,
    is_placed,
    next_step,
    on_cpu,
)

# How often it is looked whether the model is still the same, and RAM where layers are in it, or
# could be.
LOOK_S = 2.0
# The end of the process does not wait for a step that is long, or that hangs.
STOP_S = 2.0
# RAM has to be quiet for so long before what was given back is copied anew.
CALM_S = 60.0


@dataclass(slots=True)
class _Order:
    """What one caller asked for, and what has been done for it so far."""

    target: dict[int, str]
    future: "Future[Move]" = field(default_factory=Future)
    moved: set[int] = field(default_factory=set)
    staged_s: float = 0.0
    gate_s: float = 0.0
    short_of_memory: str | None = None


class Mover:
    """Owns the thread. `place` may be called from any other thread.

    repackable: the layers that are to be repacked while they are on the CPU and there is room.
    repack_room: says whether so many more bytes of RAM may be taken for a repacked layer.
    ram_short: says whether RAM is so short that repacked layers have to be given back: they are
        all of our memory that the system cannot take by itself.
    notify: is told after each swap, on this thread.
    alone: the devices that only who holds the gate may use; `look_at_them` is called while it does.
    """

    def __init__(
        self,
        experts: Experts,
        gate: Gate,
        *,
        repackable: Collection[int],
        repack_room: Callable[[int], bool],
        ram_short: Callable[[], bool],
        notify: Callable[[], None],
        alone: Collection[str] = (),
        look_at_them: Callable[[], None] = lambda: None,
        look_s: float = LOOK_S,
        calm_s: float = CALM_S,
    ) -> None:
        self._look_s, self._calm_s = look_s, calm_s
        self._experts, self._gate = experts, gate
        self._repack_room, self._ram_short, self._notify = repack_room, ram_short, notify
        self._repackable = frozenset(repackable)
        self._alone, self._look_at_them = frozenset(alone), look_at_them
        # The mutable state, all under this condition: the order in work, whether nothing is left,
        # the end.
        self._changed = threading.Condition()
        self._order = _Order(dict.fromkeys(experts.layers, MAPPED))
        self._order.future.set_result(Move(0, 0.0, 0.0))
        self._settled = False
        self._short_s: float | None = None  # when RAM was short last
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="mover", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread at its next piece of work, or leave it behind where that takes long. What
        it has placed stays where it is, and a move that it has not finished has no result: its
        caller sees that the process ended."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(STOP_S)

    @property
    def settled(self) -> bool:
        """Nothing is left to move or to repack."""
        return self._settled

    def place(self, placement: Mapping[int, str]) -> "Future[Move]":
        """Change the target of the layers named. The future ends when every layer is where the
        target says, when memory ran out, or when a later call came first. It raises what a step
        raised: LlamaError where llama-server has no model, or does not come to the gate."""
        with self._changed:
            self._supersede()
            self._order = _Order(self._order.target | dict(placement))
            self._settled = False
            self._changed.notify_all()
            return self._order.future

    def wait_settled(self, timeout_s: float) -> bool:
        """Block until nothing is left to repack, a later order came, or the time is over."""
        with self._changed:
            order = self._order
            self._changed.wait_for(lambda: self._settled or self._order is not order, timeout_s)
            return self._settled

    def _supersede(self) -> None:
        if not self._order.future.done():
            self._order.future.set_result(self._result(superseded=True))

    def _result(self, *, superseded: bool = False) -> Move:
        order = self._order
        return Move(
            layers=len(order.moved),
            staged_s=order.staged_s,
            gate_s=order.gate_s,
            short_of_memory=order.short_of_memory,
            superseded=superseded,
            settled=self._settled,
        )

    def _run(self) -> None:
        while (order := self._current_order()) is not None:
            step: Step | None = None
            try:
                self._renew()
                step = self._decide(order)
                if step is not None:
                    self._perform(order, step)
                    self._finish(order)
                    self._notify()
            except ModelGoneError:
                continue  # found anew, the order goes on
            except Exception as error:  # whatever it is: others wait for this thread
                self._give_up(order, step, error)

    def _current_order(self) -> _Order | None:
        with self._changed:
            return None if self._stopping else self._order

    def _renew(self) -> None:
        """Where llama-server has freed its model, as for a sleep of its own: give back what was
        ours of it and find the experts of the one that it has loaded since, to which the target
        then applies. Raises LlamaError as long as there is none."""
        experts = self._experts
        if not experts.gone:
            return
        if experts.forget():
            self._notify()
        if not self._alone:
            experts.free_forgotten()
        with self._gate.hold() as held_gate:
            experts.free_forgotten()
            experts.discover(held_gate)
        with self._changed:
            # The file may be another one by now.
            target = self._order.target
            self._order.target = {layer: target.get(layer, MAPPED) for layer in experts.layers}
            self._repackable &= experts.repackable
            self._settled = False

    def _decide(self, order: _Order) -> Step | None:
        """The step to perform for `order`; None where there is nothing to do, after a while."""
        with self._changed:
            if self._order is not order:
                return None
            step = self._next_step()
            if step is None and self._settled:
                self._changed.wait(self._look_s)
                return None
            self._settled = step is None or isinstance(step, Unpack)
            if step is None:
                self._changed.notify_all()
        if step is None:
            self._notify()
        return step

    def _finish(self, order: _Order) -> None:
        with self._changed:
            if not order.future.done() and is_placed(self._experts.places(), order.target):
                order.future.set_result(self._result())

    def _next_step(self) -> Step | None:
        places = self._experts.places()
        if not self._order.future.done() and is_placed(places, self._order.target):
            self._order.future.set_result(self._result())
        step = next_step(places, self._order.target, repackable=self._repackable)
        if isinstance(step, Demote | Promote):
            return step
        if (step is not None or self._watches_ram()) and self._ram_short():
            self._short_s = time.monotonic()
            repacked = [layer for layer, place in places.items() if place == REPACKED]
            # The last one: it is the first to go to a device when there is room.
            return Unpack(max(repacked)) if repacked else None
        if step is None or (
            (self._short_s is None or time.monotonic() - self._short_s >= self._calm_s)
            and self._repack_room(self._experts.layer_bytes(step.layer))
        ):
            return step
        return None  # the mapped file is slower but always works

    def _watches_ram(self) -> bool:
        """Whether it depends on RAM what is to be done next."""
        places = self._experts.places()
        return any(on_cpu(places[layer]) for layer in self._repackable)

    def _perform(self, order: _Order, step: Step) -> None:
        match step:
            case Demote(layers):
                self._swap(order, demote=layers)
                order.moved.update(layers)
            case Promote(layer, device):
                if self._copy_and_swap(order, layer, device):
                    order.moved.add(layer)
                elif not self._given_up(order):
                    self._short_of_memory(order, device)
            case Unpack(layer):
                self._swap(order, demote=(layer,))
            case Repack(layer):
                if not self._copy_and_swap(order, layer, REPACKED) and not self._given_up(order):
                    self._repackable -= {layer}

    def _copy_and_swap(self, order: _Order, layer: int, place: str) -> bool:
        """Whether the layer is in its new place now."""
        with contextlib.ExitStack() as from_the_start:
            held_gate: HeldGate | None = None
            if place in self._alone:  # no step runs while it is copied
                held_gate = from_the_start.enter_context(self._gate.hold())
            started = time.perf_counter()
            staged = self._experts.stage(layer, place, stop=lambda: self._given_up(order))
            if staged is None:
                return False
            if place != REPACKED:
                order.staged_s += time.perf_counter() - started
            self._swap(order, promote=staged, held_gate=held_gate)
        return self._experts.layers[layer].place == place

    def _swap(
        self,
        order: _Order,
        *,
        demote: Sequence[int] = (),
        promote: Staged | None = None,
        held_gate: HeldGate | None = None,
    ) -> None:
        before = self._experts.places()
        with contextlib.ExitStack() as unless_swapped:
            if promote is not None:
                unless_swapped.callback(self._experts.discard, promote)
            holding = contextlib.nullcontext(held_gate) if held_gate else self._gate.hold()
            with holding as gate:
                if self._experts.gone:
                    raise ModelGoneError
                unless_swapped.pop_all()
                unused = self._experts.swap(gate, demote=demote, promote=promote)
                if self._alone:
                    self._experts.free(unused)
                    unused = []
                    self._look_at_them()
                order.gate_s = max(order.gate_s, gate.held_s())
        self._experts.free(unused)
        now = self._experts.places()
        for layer, place in before.items():
            if layer not in demote and not on_cpu(place) and on_cpu(now[layer]):
                self._short_of_memory(order, place)  # it had to make room

    def _given_up(self, order: _Order) -> bool:
        return self._stopping or self._order is not order

    def _give_up(self, order: _Order, step: Step | None, error: Exception) -> None:
        """A step failed: let its caller know, and take what was reached as the target."""
        expected = isinstance(error, LlamaError)
        with self._changed:
            waited_for = not order.future.done()
            if waited_for and expected and is_placed(self._experts.places(), order.target):
                order.future.set_result(self._result())  # all on the CPU, and there is no model
            elif waited_for:
                order.future.set_exception(error)
                for layer, place in self._experts.places().items():
                    order.target[layer] = MAPPED if on_cpu(place) else place
            if isinstance(step, Repack):
                self._repackable -= {step.layer}
        if not expected:
            traceback.print_exception(error)
        elif step is not None and not waited_for:
            sys.stderr.write(f"worker: {error}\n")
        with self._changed:
            if not self._given_up(order):
                self._changed.wait(self._look_s)  # it may be tried again, but not at once

    def _short_of_memory(self, order: _Order, device: str) -> None:
        """Take what was reached as the target: whoever decides about memory has to ask anew."""
        with self._changed:
            order.short_of_memory = device
            for layer, place in self._experts.places().items():
                if order.target[layer] == device != place:
                    order.target[layer] = MAPPED
