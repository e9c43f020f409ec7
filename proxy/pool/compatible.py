"""When a backend that is loaded serves a request that would have loaded something else."""

from collections.abc import Iterable, Set
from dataclasses import fields
from operator import attrgetter
from typing import Final

from proxy.engine.types import FLEET, LoadOptions

NOTHING: Set[str] = frozenset()


# What has to be equal. This is asked for each request, and of each backend: no copies are made for
# it.
_LOOKED_AT: Final = ("ctx", "split", "ubatch", "parallel", "cache_mib", "cached_layers")
_EQUAL: Final = attrgetter(
    *(field.name for field in fields(LoadOptions) if field.name not in _LOOKED_AT)
)


def compatible(loaded: LoadOptions, asked: LoadOptions, unpinned: Set[str] = NOTHING) -> bool:
    """Whether a request for `asked` can be answered by what is `loaded`.

    A larger context serves a request for a smaller one; who named no split takes the one there,
    and whose policy names no `parallel` what was chosen; the batch and the expert cache are how
    something is computed, not what. Everything else has to be equal.
    """
    if loaded.ctx < asked.ctx:
        return False
    if loaded.split != asked.split and "split" not in unpinned:
        return False
    if loaded.parallel != asked.parallel and "parallel" not in unpinned:
        return False
    return bool(_EQUAL(loaded) == _EQUAL(asked))


def conflicts(asked: LoadOptions, loaded: Iterable[LoadOptions]) -> list[LoadOptions]:
    """Those that have to be gone before `asked` can be loaded: a llama.cpp RPC server has one
    client at a time, and lets a second one wait without a word."""
    servers = set(asked.rpc) - {FLEET}  # which lends each one's own
    return [other for other in loaded if servers & set(other.rpc)]
