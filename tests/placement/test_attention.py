"""Which layers keep what, as llama.cpp's own code for each architecture decides."""

import pytest

from proxy.catalog.gguf import Value
from proxy.placement.attention import attention_of, trunk_layers
from tests.placement.headers import hyper_only

HEADS: dict[str, Value] = {
    "embedding_length": 1024,
    "attention__head_count": 8,
    "attention__head_count_kv": 4,
}


def windows(architecture: str, layers: int, **more: Value) -> str:
    """One letter a layer: w for a window, f for all tokens."""
    header = hyper_only(architecture, block_count=layers, **HEADS, **more)
    return "".join("w" if layer.window else "f" for layer in attention_of(header))


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("gpt-oss", "wfwfwfwf"),
        ("gemma3", "wwwwwfww"),
        ("cohere2moe", "fwwwfwww"),  # the first of each period sees all
        ("qwen3moe", "ffffffff"),
        ("phi3", "ffffffff"),  # names a window, llama.cpp does not use it
    ],
)
def test_each_architecture_has_its_pattern(architecture: str, expected: str) -> None:
    assert windows(architecture, 8, attention__sliding_window=128) == expected


def test_the_headers_own_pattern_comes_first() -> None:
    listed = (True, True, False, True)

    assert windows("gemma4", 4, attention__sliding_window=64, **{PATTERN: listed}) == "wwfw"
    assert windows("gemma3", 4, attention__sliding_window=64, **{PATTERN: 2}) == "wfwf"


PATTERN = "attention__sliding_window_pattern"


def test_a_window_of_none_or_zero() -> None:
    assert windows("gemma3", 6) == "ffffff"
    assert windows("llama4", 4, attention__sliding_window=0) == "ffff"
    assert windows("llama4", 4) == "wwwf"
    assert windows("exaone4", 4, attention__sliding_window=4096) == "ffff"


def test_layers_that_share_a_cache_keep_none() -> None:
    header = hyper_only(
        "gemma4", block_count=6, **HEADS, attention__shared_kv_layers=2, attention__sliding_window=9
    )

    assert [layer.key_width > 0 for layer in attention_of(header)] == [True] * 4 + [False] * 2


def test_heads_of_windowed_layers_have_their_own_width() -> None:
    header = hyper_only(
        "gemma4",
        block_count=2,
        **HEADS,
        attention__sliding_window=512,
        attention__sliding_window_pattern=(True, False),
        attention__key_length=512,
        attention__value_length=512,
        attention__key_length_swa=256,
        attention__value_length_swa=256,
    )

    assert [layer.key_width for layer in attention_of(header)] == [4 * 256, 4 * 512]


def test_latent_attention_stores_keys_only() -> None:
    header = hyper_only(
        "deepseek2",
        block_count=1,
        embedding_length=1024,
        attention__head_count=16,
        attention__head_count_kv=1,
        attention__key_length=576,
        attention__value_length=512,
        attention__key_length_mla=192,
        attention__value_length_mla=128,
    )

    (layer,) = attention_of(header)
    assert (layer.key_width, layer.value_width) == (576, 0)


def kinds(architecture: str, layers: int, **more: Value) -> str:
    header = hyper_only(architecture, block_count=layers, **(HEADS | more))
    return "".join(layer.kind[0] for layer in attention_of(header))


def test_recurrent_layers() -> None:
    assert kinds("mamba", 3) == "rrr"
    assert kinds("qwen3next", 8) == "rrrarrra"
    assert kinds("qwen3next", 4, full_attention_interval=2) == "rara"
    assert kinds("qwen35moe", 3, attention__recurrent_layers=(True, False, True)) == "rar"
    assert kinds("lfm2moe", 3, attention__head_count_kv=(0, 8, 0)) == "rar"
    assert kinds("falcon-h1", 2) == "bb"
    nemotron: dict[str, Value] = {
        "attention__head_count_kv": (0, 8, 0),
        "feed_forward_length": (0, 0, 512),
    }
    assert kinds("nemotron_h", 3, **nemotron) == "ran"
    assert kinds("bert", 2) == "nn"


def test_layers_of_multi_token_prediction_are_not_loaded() -> None:
    header = hyper_only("glm4moe", block_count=47, nextn_predict_layers=1, **HEADS)

    assert trunk_layers(header) == len(attention_of(header)) == 46
