"""What a swap does where a device has no room for what the new placement needs. An RPC server never
runs out of it at that moment, so the device is a number here."""

import contextlib
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proxy.worker.experts import Experts, Staged, _Layer
from proxy.worker.gate import HeldGate
from proxy.worker.llama import ModelGoneError
from proxy.worker.next_step import MAPPED
from proxy.worker.staging import Copy

LAYERS, SIZE, COMPUTE = 4, 100, 150


class Device:
    """llama.cpp on a device with `room`, on which each layer and one step need as much as above."""

    def __init__(self, room: int, *layers: int) -> None:
        self.room = room
        self.buffers = {1 + layer for layer in layers}
        self.holds = True  # whether the last reservation did
        for name in ("synchronize", "get_model", "buffer_size"):
            setattr(self, name, lambda _: 0)
        for name in ("n_seq_max", "n_ubatch", "n_ctx"):
            setattr(self, name, lambda _: 1)
        self.gate = SimpleNamespace(
            breakdown=lambda _: {}, watched=1, pinned=lambda: contextlib.nullcontext(False)
        )
        self.experts = Experts(
            cast(Any, self),
            cast(Any, self.gate),
            outputs_per_batch=False,
        )
        self.experts.layers = {
            i: _Layer([], "CUDA0", "CUDA0", 1 + i) if i in layers else _Layer([], "CUDA0")
            for i in range(LAYERS)
        }

    def devices(self) -> dict[str, int]:
        return {"CUDA0": 1}

    def repack_type(self) -> None:
        return None

    def buffer_free(self, buffer: int) -> None:
        self.buffers.remove(buffer)

    def graph_reserve(self, *_: int) -> int:
        self.holds = len(self.buffers) * SIZE + COMPUTE <= self.room
        return int(self.holds)

    def swap(self, **what: Any) -> list[int]:
        return self.experts.swap(HeldGate([1]), **what)

    def on_device(self) -> list[int]:
        return [layer for layer, place in self.experts.places().items() if place != MAPPED]


def test_what_has_left_makes_room_before_the_gate_opens() -> None:
    device = Device(3 * SIZE + COMPUTE, 0, 1, 2, 3)

    assert device.swap(demote=(0,)) == []
    assert device.on_device() == [1, 2, 3]
    assert device.holds


def test_where_there_is_room_buffers_are_left_for_later() -> None:
    device = Device(4 * SIZE + COMPUTE, 0, 1, 2, 3)

    assert device.swap(demote=(0, 1)) == [1, 2]
    assert device.on_device() == [2, 3]
    assert len(device.buffers) == LAYERS


def test_an_undone_promotion_leaves_room_for_what_was_there() -> None:
    device = Device(3 * SIZE + COMPUTE, 1, 2, 3)
    device.buffers.add(9)

    assert device.swap(promote=Staged(0, "CUDA0", Copy(9))) == []
    assert device.on_device() == [1, 2, 3]
    assert device.buffers == {2, 3, 4}
    assert device.holds


@pytest.mark.parametrize(("room", "left"), [(COMPUTE + SIZE, [3]), (COMPUTE, []), (0, [])])
def test_more_layers_leave_until_there_is_room_or_none_is_left(room: int, left: list[int]) -> None:
    device = Device(room, 0, 1, 2, 3)

    device.swap(demote=(0,))
    assert device.on_device() == left
    assert len(device.buffers) == len(left)
    assert device.holds == (room > 0)


def test_nothing_is_written_into_a_model_that_is_gone() -> None:
    device = Device(4 * SIZE + COMPUTE, 2, 3)
    device.gate.watched = None
    with pytest.raises(ModelGoneError):
        device.swap(demote=(2,))
    with pytest.raises(ModelGoneError):
        device.experts.stage(0, "CUDA0", stop=lambda: False)
    assert device.on_device() == [2, 3]


def test_what_was_ours_of_a_model_that_is_gone_is_given_back() -> None:
    device = Device(4 * SIZE + COMPUTE, 2, 3)
    device.swap(demote=(2,))
    device.buffers.discard(3)  # as the mover does with what is not used any more
    device.gate.watched = None

    device.experts.forget()

    assert device.on_device() == []
    assert device.experts.held == {}
    assert device.buffers == {4}
    for _ in range(2):  # once, however often
        device.experts.free_forgotten()
    assert device.buffers == set()
