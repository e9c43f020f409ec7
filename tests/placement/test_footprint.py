"""What a newcomer takes of a device before anything of it moves there."""

from proxy.catalog.gguf_reader import read_header
from proxy.engine.types import LoadOptions
from proxy.placement.footprint import footprint
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
