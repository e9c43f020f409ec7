from typing import Any

import pytest

from proxy.catalog.parameters import BadParameter, from_json, from_manifest, unknown


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
    ],
)
def test_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(BadParameter, match=message):
        from_json(given)


def test_unknown_ones_are_kept_if_a_manifest_can_have_them() -> None:
    given = {
        "num_ctz": 1,
        "tfs_z": "x",
        "deep": {"a": 1},
        "huge": 2**70,
        "top_k": 5,
        "f16_kv": True,
    }

    kept = from_json(given)

    assert kept == {"num_ctz": 1, "tfs_z": "x", "top_k": 5}
    assert from_manifest(kept) == kept
    assert unknown(given)[0] == "unknown parameter 'num_ctz'; did you mean num_ctx?"
    assert len(unknown(given)) == 4
