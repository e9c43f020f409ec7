"""The order of steps between where experts are and where they should be."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.worker.next_step import (
    MAPPED,
    REPACKED,
    Demote,
    Promote,
    Repack,
    Step,
    is_placed,
    next_step,
    on_cpu,
    victim,
)

DEVICES = ("RPC0", "RPC1")
layers = st.integers(1, 8).flatmap(
    lambda n: st.tuples(
        st.lists(st.sampled_from((MAPPED, REPACKED, *DEVICES)), min_size=n, max_size=n),
        st.lists(st.sampled_from((MAPPED, *DEVICES)), min_size=n, max_size=n),
        st.sets(st.integers(0, n - 1)),
    )
)


def perform(places: dict[int, str], step: Step) -> None:
    match step:
        case Demote(gone):
            places.update(dict.fromkeys(gone, MAPPED))
        case Promote(layer, device):
            places[layer] = device
        case Repack(layer):
            places[layer] = REPACKED


class TestNextStep:
    def test_demotes_all_layers_at_once_and_before_anything_else(self) -> None:
        places = {0: "RPC0", 1: "RPC0", 2: MAPPED}
        target = {0: MAPPED, 1: MAPPED, 2: "RPC0"}

        assert next_step(places, target, repackable={0, 1, 2}) == Demote((0, 1))

    def test_promotes_from_the_last_layer_backwards(self) -> None:
        places = {0: MAPPED, 1: REPACKED, 2: MAPPED, 3: "RPC0"}
        target = {0: MAPPED, 1: "RPC0", 2: "RPC0", 3: "RPC0"}

        assert next_step(places, target, repackable=()) == Promote(2, "RPC0")

    def test_repacks_what_stays_from_the_first_layer_on(self) -> None:
        places = {0: MAPPED, 1: MAPPED, 2: "RPC0"}
        target = {0: MAPPED, 1: MAPPED, 2: "RPC0"}

        assert next_step(places, target, repackable={0, 1, 2}) == Repack(0)

    def test_a_layer_goes_from_device_to_device_through_the_file(self) -> None:
        """The first device's memory is free before the second one's is taken."""
        assert next_step({0: "RPC0"}, {0: "RPC1"}, repackable=()) == Demote((0,))

    def test_nothing_to_do(self) -> None:
        assert next_step({0: MAPPED, 1: "RPC0"}, {0: MAPPED, 1: "RPC0"}, repackable=()) is None

    @given(layers)
    def test_every_target_is_reached_with_the_cpu_layers_always_the_first_ones(
        self, drawn: tuple[list[str], list[str], set[int]]
    ) -> None:
        """Between any two steps, no layer that is to be promoted sits behind one that already
        was."""
        start, wanted, repackable = drawn
        places, target = dict(enumerate(start)), dict(enumerate(wanted))
        steps = 0
        while (step := next_step(places, target, repackable=repackable)) is not None:
            if isinstance(step, Promote):
                waiting = [i for i in places if on_cpu(places[i]) and target[i] != MAPPED]
                assert step.layer == max(waiting)
            perform(places, step)
            steps += 1
            assert steps <= 3 * len(places)

        assert is_placed(places, target)
        assert all(places[i] == REPACKED for i in repackable if target[i] == MAPPED)


def test_the_first_layer_on_a_device_makes_room_first() -> None:
    assert victim({0: MAPPED, 1: REPACKED, 2: "RPC1", 3: "RPC0"}) == 2
    assert victim({0: MAPPED, 1: REPACKED}) is None
