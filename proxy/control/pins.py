"""Has what is loaded follow the policies that say what stays loaded. What is loaded later comes
with it (`proxy.routing.load_plan`)."""

from collections.abc import Callable, Iterator
from typing import Protocol

from proxy.control.ports import Backends
from proxy.errors import ModelNotFound
from proxy.policy.diff import Changes
from proxy.policy.model import Policies


class Pool(Backends, Protocol):
    """Who is there, and who stays: proxy.pool.pool."""

    def pin(self, backend_id: str, *, pinned: bool, by_policy: bool = False) -> None:
        """Have a backend stay loaded, or not any more."""


class Pins:
    def __init__(self, pool: Pool, loaded_as: Callable[[str], str]) -> None:
        """`loaded_as`: the name under which a model is loaded, which another one may share. Raises
        ModelNotFound."""
        self._pool, self._loaded_as = pool, loaded_as

    async def policies_changed(self, old: Policies, new: Policies, changes: Changes) -> None:
        """Whoever was pinned by hand, or not, stays so, where his policy says the same of it as
        before."""
        if not any("pinned" in change.keys for change in changes.models.values()):
            return
        pinned = set(self._pinned(new))
        for backend in self._pool.backends():
            wanted = backend.options.model in pinned
            self._pool.pin(backend.id, pinned=wanted, by_policy=True)

    def _pinned(self, policies: Policies) -> Iterator[str]:
        for name in (name for name, policy in policies.models.items() if policy.pinned):
            try:
                yield self._loaded_as(name)
            except ModelNotFound:
                yield name  # its file is gone, but it may be loaded
