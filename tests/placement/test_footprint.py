"""What a newcomer takes of a device before anything of it moves there."""

from dataclasses import replace

import pytest

from proxy.catalog.gguf_reader import read_header
from proxy.engine.types import LoadOptions
from proxy.placement.footprint import footprint
from tests.support.hosted import hosted
from tests.support.llama import rpc_server
from tests.support.models import model


def test_feed_forward_weights_that_move_are_not_waited_for() -> None:
    path = model("qwen3", layers=6)
    header = read_header(path)
    named = [t for t in header.tensors if ".ffn_" in t.name and "norm" not in t.name]
    whole = footprint(header, LoadOptions("m", path), ["RPC0"])
    movable = footprint(header, LoadOptions("m", path, dense=True), ["RPC0"])

    assert len(named) == 18
    assert whole["RPC0"] - movable["RPC0"] == sum(t.size_bytes for t in named)


def test_without_devices_there_is_nothing_to_take() -> None:
    path = model("qwen3", layers=6)

    assert footprint(read_header(path), LoadOptions("m", path), []) == {}


@pytest.mark.llama
async def test_a_device_for_experts_only_has_nothing_before_these() -> None:
    """So the other one has all, not half of it."""
    path, apart = model(), ("RPC1",)
    async with (
        rpc_server() as first,
        rpc_server() as second,
        hosted(path, rpc=(first, second), no_attention=apart) as engine,
    ):
        held = {device: sum(kinds.values()) for device, kinds in engine.known().held.items()}
    options = LoadOptions("m", path, ctx=2048, parallel=4, no_attention=apart)

    takes = footprint(read_header(path), options, ["RPC0", "RPC1"])

    assert held["RPC1"] == 0
    assert takes.keys() == {"RPC0"}
    assert held["RPC0"] <= takes["RPC0"] < 1.5 * held["RPC0"]
    assert footprint(read_header(path), replace(options, no_attention=("RPC0",)), ["RPC0"]) == {}
