"""A measured curve, and the devices that it was measured on."""

import pytest

from proxy.control.speed_curve import Curve, Point
from proxy.control.speed_store import device_ids, engine_id, model_id
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
