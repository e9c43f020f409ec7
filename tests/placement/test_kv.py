"""Bytes of caches and states."""

import pytest

from proxy.placement.attention import attention_of
from proxy.placement.kv import cells, kv_bytes, row_bytes, state_bytes
from tests.placement.headers import hyper_only


@pytest.mark.parametrize(
    ("ctx", "window", "ubatch", "expected"),
    [
        (1000, 0, 512, 1024),
        (32768, 128, 512, 768),  # the window and a batch, in steps of 256
        (32768, 128, 2048, 2304),
        (512, 4096, 512, 512),  # a window wider than the context
    ],
)
def test_cells(ctx: int, window: int, ubatch: int, expected: int) -> None:
    assert cells(ctx, window, ubatch) == expected


def test_types_are_counted_by_their_blocks() -> None:
    assert row_bytes("f16", 128) == 256
    assert row_bytes("q8_0", 128) == 4 * 34
    assert row_bytes("q4_0", 128) == 4 * 18
    assert row_bytes("f16", 0) == 0


def test_each_conversation_has_cells_of_its_own() -> None:
    header = hyper_only("qwen3", block_count=1, embedding_length=1024, attention__head_count=8)
    (layer,) = attention_of(header)

    size = kv_bytes(layer, ctx=300, parallel=3, ubatch=512, key_type="f16", value_type="q8_0")

    assert size == 3 * 512 * (1024 * 2 + 1024 // 32 * 34)


def test_state_of_recurrent_layers() -> None:
    gated = hyper_only(
        "qwen3next",
        ssm__conv_kernel=4,
        ssm__inner_size=4096,
        ssm__state_size=128,
        ssm__group_count=16,
    )
    short = hyper_only("lfm2", embedding_length=1024, shortconv__l_cache=3)
    rwkv = hyper_only("rwkv7", embedding_length=2048, wkv__head_size=64, token_shift_count=1)

    assert state_bytes(gated, parallel=2) == (3 * (4096 + 2 * 16 * 128) + 128 * 4096) * 4 * 2
    assert state_bytes(short, parallel=1) == 1024 * 2 * 4
    assert state_bytes(rwkv, parallel=1) == (2048 + 2048 * 64) * 4
    assert state_bytes(hyper_only("jamba"), parallel=1) is None
