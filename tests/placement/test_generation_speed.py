"""What a token reads at each split, and how long that takes."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.gpu.bigmodel import MODELS
from proxy.catalog.gguf_reader import read_header
from proxy.engine.types import CPU, Layer, Status
from proxy.placement.generation_speed import (
    TokenReads,
    least_seconds,
    reads_at,
    seconds_from,
    token_reads,
)
from tests.placement import sparse
from tests.support.models import model

# The first layer has nothing that moves.
STATUS = Status(3, (Layer(1, "D", 9, "D"), Layer(2, "D", 9, "D")))
READS = TokenReads((10, 10, 10), (0, 100, 100), 5)


def test_of_experts_it_is_the_share_that_a_token_uses() -> None:
    header = read_header(model(sizes={"experts": 16, "experts_used": 4}))
    experts = sum(t.size_bytes for t in header.tensors if "exps" in t.name)
    embedding = sum(t.size_bytes for t in header.tensors if t.name.startswith("token_embd"))
    others = sum(t.size_bytes for t in header.tensors) - experts - embedding
    tied = 0 if any(t.name == "output.weight" for t in header.tensors) else embedding

    reads = token_reads(header)

    assert reads is not None
    assert sum(reads.moving) == experts // 4
    assert sum(reads.dense) + reads.output == others + tied


def test_feed_forward_weights_are_read_whole() -> None:
    header = read_header(model("qwen3"))
    moving = sum(t.size_bytes for t in header.tensors if ".ffn_" in t.name and "norm" not in t.name)

    reads = token_reads(header, dense=True)

    assert reads is not None
    assert sum(reads.moving) == moving


def test_nothing_is_made_up_where_the_header_does_not_say_how_many_are_used() -> None:
    header = read_header(model())
    silent = {k: v for k, v in header.metadata.items() if not k.endswith("expert_used_count")}

    assert token_reads(replace(header, metadata=silent)) is None


@pytest.mark.parametrize(
    ("split", "there"),
    [(0, {"D": 235}), (1, {"D": 235}), (2, {"D": 135, CPU: 100}), (3, {"D": 35, CPU: 200})],
)
def test_it_is_read_where_the_split_has_it(split: int, there: dict[str, int]) -> None:
    assert reads_at(READS, STATUS, split) == there


def test_each_layers_dense_weights_are_with_its_attention() -> None:
    two = Status(3, (Layer(1, "D", 9, "D"), Layer(2, "E", 9, "E")))

    assert reads_at(READS, two, 3) == {"D": 20, "E": 15, CPU: 200}


def test_places_are_read_one_after_the_other() -> None:
    assert least_seconds({"D": 100, CPU: 50}, {"D": 50.0, CPU: 10.0}) == 7.0


def test_a_place_of_unknown_speed_has_no_time() -> None:
    assert least_seconds({"D": 100, CPU: 50}, {CPU: 10.0}) is None


def test_what_was_measured_stays_as_it_is() -> None:
    there = reads_at(READS, STATUS, 2)

    assert seconds_from(30.0, there, there, {CPU: 10.0, "D": 100.0}) == 30.0


def test_from_there_it_changes_with_what_is_read_elsewhere() -> None:
    two, three, rates = {"D": 135, CPU: 100}, {"D": 35, CPU: 200}, {CPU: 10.0, "D": 100.0}

    assert seconds_from(30.0, two, three, rates) == pytest.approx(30 + 100 / 10 - 100 / 100)
    assert seconds_from(30.0, two, {"D": 235}, rates) == pytest.approx(30 - 100 / 10 + 100 / 100)


def test_a_device_of_unknown_speed_is_not_counted() -> None:
    assert seconds_from(30.0, {"D": 135, CPU: 100}, {"D": 35, CPU: 200}, {CPU: 10.0}) == 40.0


def test_without_main_memorys_speed_one_split_says_nothing_of_others() -> None:
    assert seconds_from(30.0, {CPU: 1}, {CPU: 2}, {"D": 1.0}) is None


def test_a_measured_time_has_room_for_all_that_was_read_in_it() -> None:
    """Caches hold small models: what was read so fast is read so fast."""
    rates = {CPU: 1.0}

    assert seconds_from(10.0, {CPU: 100}, {CPU: 50}, rates) == pytest.approx(5.0)
    assert seconds_from(10.0, {CPU: 100}, {}, rates) is None


def test_what_the_pages_say_of_the_h200s_model(tmp_path: Path) -> None:
    """Of docs/planning.md; main memory's speed is made up there too."""
    shape, sizes = MODELS["qwen3-30b-a3b"]
    path = sparse.real_size(tmp_path / "model.gguf", shape, sizes, vocabulary=512)
    layers = tuple(Layer(index, "D", 1, "D") for index in range(sizes.layers))
    reads, rates = token_reads(read_header(path)), {CPU: 100e9, "D": 4917e9}
    assert reads is not None
    at = {n: reads_at(reads, Status(sizes.layers, layers), n) for n in (35, 36, 37)}

    def speed(seconds: float | None) -> int:
        assert seconds is not None
        return round(1 / seconds)

    assert [speed(least_seconds(at[n], rates)) for n in at] == [130, 127, 123]
    assert speed(seconds_from(1 / 49.6, at[36], at[35], rates)) == 50
    assert speed(seconds_from(1 / 44.6, at[37], at[35], rates)) == 45
