"""From a split to a placement, as far as there is room."""

from proxy.engine.types import CPU, Layer, Status
from proxy.placement.assign import assign, display_n, placement, projected
from proxy.split import ALL, AUTO, Layers

STATUS = Status(4, tuple(Layer(i, CPU, 10, "G" if i else CPU) for i in range(4)))


def test_the_experts_of_named_layers_are_on_the_cpu_and_others_at_home() -> None:
    assert placement(STATUS, Layers(((1, 1), (3, 9)))) == {0: CPU, 1: CPU, 2: "G", 3: CPU}
    assert placement(STATUS, 2) == {0: CPU, 1: CPU, 2: "G", 3: "G"}


def test_what_does_not_fit_stays_on_the_cpu() -> None:
    assert assign(STATUS, Layers(((3, 3),)), {"G": 10}) == {0: CPU, 1: CPU, 2: "G", 3: CPU}
    assert assign(STATUS, AUTO, {"G": 25}) == {0: CPU, 1: CPU, 2: "G", 3: "G"}


def test_unknown_memory_is_tried_for_what_was_asked_for_only() -> None:
    assert assign(STATUS, Layers(((2, 2),)), {"G": None}) == {0: CPU, 1: "G", 2: CPU, 3: "G"}
    assert assign(STATUS, AUTO, {"G": None}) == dict.fromkeys(range(4), CPU)


def test_what_is_on_its_way_counts_as_there() -> None:
    now = status("ccGG")
    there = projected(now, {1: "G", 2: CPU})

    assert [layer.experts for layer in there.layers] == [CPU, "G", CPU, "G"]
    assert assign(there, AUTO, {"G": 0}) == {0: CPU, 1: "G", 2: CPU, 3: "G"}
    assert projected(now, {}) == now


GB = 1 << 30


def status(places: str, attention_device: str = "G") -> Status:
    """ "cGH": experts of the first layer on the CPU, of the second on G."""
    names = {"c": CPU}
    layers = [Layer(i, names.get(p, p), GB, attention_device) for i, p in enumerate(places)]
    return Status(len(places), tuple(layers))


def placed(found: dict[int, str]) -> str:
    return "".join("c" if found[i] == CPU else found[i] for i in sorted(found))


def test_of_numbers_that_mean_the_same_the_one_asked_for_is_shown() -> None:
    dense_first = Status(4, status("cGGG").layers[1:])
    assert [display_n(dense_first, n) for n in (0, 1, 2)] == [0, 1, 0]
    assert display_n(dense_first, AUTO) == display_n(dense_first, ALL) == 0
    assert [display_n(status("ccGG"), n) for n in (1, 2, 3, ALL)] == [2, 2, 2, 2]
    assert [display_n(status("cccc"), n) for n in (3, 4, 99)] == [4, 4, 4]
    assert display_n(Status(4), 3) == 0, "a model without experts"


class TestPlan:
    def test_a_number_is_the_first_layers(self) -> None:
        assert placed(assign(status("cccc"), 3, {"G": 9 * GB})) == "cccG"
        assert placed(assign(status("GGGG"), 3, {"G": 0})) == "cccG"

    def test_as_far_as_there_is_room_from_the_last_layer_backwards(self) -> None:
        assert placed(assign(status("cccc"), "auto", {"G": 2 * GB})) == "ccGG"
        assert placed(assign(status("cccG"), 0, {"G": GB})) == "ccGG"

    def test_where_nothing_is_known_a_number_is_tried_and_auto_is_not(self) -> None:
        assert placed(assign(status("cc"), 1, {})) == "cG"
        assert placed(assign(status("cc"), "auto", {"G": None})) == "cc"

    def test_what_does_not_fit_at_home_goes_to_a_device_for_experts_only(self) -> None:
        left_bytes = {"G": GB, "H": 2 * GB}
        assert placed(assign(status("cccc"), "auto", left_bytes, ["H"])) == "cHHG"
        assert placed(assign(status("cHHG"), "auto", {"G": 0, "H": 0}, ["H"])) == "cHHG"

    def test_devices_on_one_card_share_its_room(self) -> None:
        found = assign(status("cccc"), 0, {"card": 3 * GB}, ["H"], domain_of=lambda _: "card")
        assert placed(found) == "cGGG"

    def test_a_device_that_is_not_for_experts_gets_none(self) -> None:
        assert placed(assign(status("cc"), 0, {"G": 0, "H": 9 * GB}, ["H"])) == "HH"

    def test_experts_leave_a_closed_device_for_one_with_room(self) -> None:
        no_experts = {"G"}
        assert (
            placed(assign(status("ccGG"), "auto", {"G": 9 * GB}, no_experts=no_experts)) == "cccc"
        )
        assert placed(assign(status("ccGG"), 0, {"G": None}, no_experts=no_experts)) == "cccc"
        left_bytes = {"G": 9 * GB, "H": 3 * GB}
        assert (
            placed(assign(status("cHGG"), "auto", left_bytes, ["H"], no_experts=no_experts))
            == "HHHH"
        )
        assert placed(assign(status("ccHH"), 0, left_bytes, ["H"], no_experts={"H"})) == "GGGG"
