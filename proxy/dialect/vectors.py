"""Vectors of texts: shorter ones of the same length 1, as numbers or as base64 of them. Pure."""

import base64
import math
from array import array
from typing import Any

from proxy.errors import BadRequest

Vector = list[float] | str  # as text: base64 of numbers of 32 bits


def read_dimensions(value: Any) -> int:
    """How many numbers a vector is to have; 0: all. Raises BadRequest. As in Ollama, what is not
    positive is nothing."""
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadRequest("dimensions: a whole number is wanted", param="dimensions")
    return max(value, 0)


def shortened(vector: Vector, dimensions: int) -> Vector:
    """The first `dimensions` numbers, again of length 1; 0: all as they are."""
    if not dimensions:
        return vector
    if not isinstance(vector, str):
        return _cut(vector, dimensions)
    numbers = array("f", base64.b64decode(vector))
    return base64.b64encode(array("f", _cut(numbers.tolist(), dimensions)).tobytes()).decode()


def _cut(vector: list[float], dimensions: int) -> list[float]:
    if dimensions >= len(vector):
        return vector
    first = vector[:dimensions]
    length = max(math.hypot(*first), 1e-12)
    return [number / length for number in first]
