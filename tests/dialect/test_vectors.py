"""Vectors that are cut."""

import base64
import struct
from typing import Any

import pytest

from proxy.dialect.vectors import read_dimensions, shortened
from proxy.errors import BadRequest


def test_numbers() -> None:
    assert shortened([3.0, 4.0, 12.0], 2) == [0.6, 0.8]
    assert shortened([3.0, 4.0], 2) == [3.0, 4.0], "nothing was cut"
    assert shortened([3.0, 4.0], 0) == [3.0, 4.0]
    assert shortened([0.0, 0.0, 1.0], 2) == [0.0, 0.0]


def test_base64_of_numbers() -> None:
    packed = base64.b64encode(struct.pack("<3f", 3.0, 4.0, 12.0)).decode()

    found = shortened(packed, 2)

    assert isinstance(found, str)
    assert struct.unpack("<2f", base64.b64decode(found)) == pytest.approx((0.6, 0.8))
    assert shortened(packed, 0) == packed


@pytest.mark.parametrize(("value", "number"), [(None, 0), (0, 0), (-3, 0), (8, 8)])
def test_dimensions(value: Any, number: int) -> None:
    assert read_dimensions(value) == number


@pytest.mark.parametrize("value", ["8", 8.0, True, [8]])
def test_what_is_no_number_of_dimensions(value: Any) -> None:
    with pytest.raises(BadRequest) as e:
        read_dimensions(value)
    assert e.value.param == "dimensions"
