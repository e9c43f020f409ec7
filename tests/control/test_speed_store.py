"""Curves on disk, and the floor that "auto" takes from them."""

from dataclasses import replace
from pathlib import Path

import pytest

from proxy.control.speed_curve import Curve, Point
from proxy.control.speed_store import (
    device_ids,
    engine_id,
    file_of,
    load,
    measured_floor,
    model_id,
    save,
)
from proxy.engine.types import Device
from tests.support.models import model

CARD = Device("CUDA0", "some card", "gpu", 8 << 30, 7 << 30)
HOST = Device("CPU", "some processor", "cpu", None, None)


@pytest.fixture
def curve() -> Curve:
    return Curve(
        model="m",
        model_id=model_id(model()),
        devices=device_ids([CARD, HOST]),
        engine=engine_id(),
        at="2026-11-23T16:00:00+00:00",
        block_count=12,
        ctx=512,
        prompt_tokens=64,
        generated_tokens=16,
        rounds=3,
        points=(Point(0, 50, 100, 0.1), Point(5, 90, 200), Point(12, 60, 200)),
    )


def test_what_was_saved_is_loaded(curve: Curve, tmp_path: Path) -> None:
    path = save(tmp_path, curve)

    assert load(path) == curve
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_floor_is_the_measured_best(curve: Curve, tmp_path: Path) -> None:
    save(tmp_path, curve)

    assert measured_floor(tmp_path, model(), [HOST, CARD]) == 5


def test_a_model_that_was_moved_keeps_its_curve(curve: Curve, tmp_path: Path) -> None:
    save(tmp_path, curve)
    moved = tmp_path / "another-name.gguf"
    moved.write_bytes(model().read_bytes())

    assert measured_floor(tmp_path, moved, [CARD]) == 5


def test_another_card_engine_or_model_has_no_floor(curve: Curve, tmp_path: Path) -> None:
    save(tmp_path, curve)

    assert measured_floor(tmp_path, model(), [replace(CARD, description="other")]) is None
    assert measured_floor(tmp_path, model(), [CARD], libdir=tmp_path) is None
    assert measured_floor(tmp_path, model("gpt-oss", layers=8), [CARD]) is None
    assert measured_floor(tmp_path, tmp_path / "gone.gguf", [CARD]) is None


def test_a_broken_file_is_no_floor(curve: Curve, tmp_path: Path) -> None:
    save(tmp_path, curve).write_text("{")

    assert measured_floor(tmp_path, model(), [CARD]) is None


def test_the_newest_takes_the_place_of_the_one_before(curve: Curve, tmp_path: Path) -> None:
    save(tmp_path, curve)
    save(tmp_path, replace(curve, points=curve.points[:1]))

    path = file_of(tmp_path, curve.model_id, curve.devices, curve.engine)
    stored = load(path)
    assert stored is not None
    assert len(stored.points) == 1
