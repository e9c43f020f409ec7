"""Curves on disk."""

from dataclasses import replace
from pathlib import Path

import pytest

from proxy.control.speed_curve import Curve, Point
from proxy.control.speed_store import (
    device_ids,
    engine_id,
    file_of,
    load,
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


def test_the_newest_takes_the_place_of_the_one_before(curve: Curve, tmp_path: Path) -> None:
    save(tmp_path, curve)
    save(tmp_path, replace(curve, points=curve.points[:1]))

    path = file_of(tmp_path, curve.model_id, curve.devices, curve.engine)
    stored = load(path)
    assert stored is not None
    assert len(stored.points) == 1
