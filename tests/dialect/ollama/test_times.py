"""Times as Go writes them."""

import pytest

from proxy.dialect.ollama.times import rfc3339


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_700_000_000_123_456_789, "2023-11-14T22:13:20.123456789Z"),
        (1_700_000_000_120_000_000, "2023-11-14T22:13:20.12Z"),
        (1_700_000_000_000_000_001, "2023-11-14T22:13:20.000000001Z"),
    ],
)
def test_zeros_at_the_end_are_left_out(ns: int, text: str) -> None:
    assert rfc3339(ns) == text
