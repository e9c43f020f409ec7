from typing import Any

import pytest

from proxy.catalog.parameters import BadParameter, from_json


def test_from_json() -> None:
    given = {
        "n_cpu_moe": "24",
        "stop": "x",
        "num_ctx": 4096.0,
        "top_p": 1,
        "f16_kv": True,
        "seed": None,
    }

    assert from_json(given) == {
        "moe_cpu_layers": 24, "stop": ["x"], "num_ctx": 4096, "top_p": 1,
    }  # fmt: skip


def test_ranges_of_layers_are_kept_as_text() -> None:
    """Parameters are stored as JSON."""
    assert from_json({"num_cpu_moe": "7, 0-2"}) == {"moe_cpu_layers": "0-2,7"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_ctx": 1.5}, "a whole number"),
        ({"num_ctx": True}, "a whole number"),
        ({"stop": [1]}, "a list of texts"),
        ({"use_mmap": 1}, "true or false"),
        ({"moe_cpu_layers": -2}, "not allowed"),
        ({"num_ctz": 1}, "did you mean num_ctx"),
    ],
)
def test_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(BadParameter, match=message):
        from_json(given)
