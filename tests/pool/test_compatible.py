"""When a loaded backend serves a request that asked for something else."""

from dataclasses import replace
from pathlib import Path

import pytest

from proxy.engine.types import FLEET, LoadOptions
from proxy.pool.compatible import compatible, conflicts

LOADED = LoadOptions("m", Path("m.gguf"), ctx=8192, split=4)


@pytest.mark.parametrize(
    ("asked", "unpinned", "served"),
    [
        (LOADED, set(), True),
        (replace(LOADED, ctx=4096), set(), True),
        (replace(LOADED, ctx=8193), set(), False),
        (replace(LOADED, split=5), set(), False),
        (replace(LOADED, split=None), set(), False),
        (replace(LOADED, split=5), {"split"}, True),
        (replace(LOADED, split=5, ctx=8193), {"split", "ctx"}, False),
        (replace(LOADED, ubatch=2048), set(), True),
        (replace(LOADED, cache_mib=512, cached_layers=4), set(), True),
        (replace(LOADED, model="n"), set(), False),
        (replace(LOADED, mode="embedding"), set(), False),
        (replace(LOADED, args=("--jinja",)), {"split", "ctx"}, False),
        (replace(LOADED, parallel=2), {"split", "ctx"}, False),
        (replace(LOADED, parallel=2), {"parallel"}, True),
    ],
)
def test_compatible(asked: LoadOptions, unpinned: set[str], served: bool) -> None:
    """A larger context does for a smaller one, and any split, and any number of
    conversations, for one that was not named; the rest
    is to be equal."""
    assert compatible(LOADED, asked, unpinned) is served


def test_one_rpc_server_is_for_one_model_and_the_fleet_has_one_for_each() -> None:
    fleet, own = (replace(LOADED, rpc=(rpc,)) for rpc in (FLEET, "a:1"))
    other = replace(LOADED, model="n", rpc=("a:1", "b:1"))

    assert conflicts(own, [fleet, other, LOADED]) == [other]
    assert conflicts(fleet, [replace(fleet, model="n"), other]) == []
