"""Models that the policies pin, on backends that were loaded before the edit."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from proxy.control.pins import Pins
from proxy.engine.types import LoadOptions
from proxy.errors import ModelNotFound
from proxy.policy.diff import diff
from proxy.policy.load import load
from proxy.policy.model import Policies
from proxy.pool.state import Backend
from tests.support.policies import Table, policies

Models = Mapping[str, Table]


class Pool:
    def __init__(self, *models: str) -> None:
        self._backends = [Backend(name, LoadOptions(name, Path("m.gguf"))) for name in models]
        self.told: list[tuple[str, bool, bool]] = []

    def backends(self) -> list[Backend]:
        return self._backends

    def pin(self, backend_id: str, *, pinned: bool, by_policy: bool = False) -> None:
        self.told.append((backend_id, pinned, by_policy))


@pytest.fixture
def follow(tmp_path: Path) -> "Follow":
    return Follow(tmp_path)


class Follow:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.pool = Pool("a", "b")

    def read(self, models: Models) -> Policies:
        file = self._folder / "policies.toml"
        file.write_text(policies(models))
        loaded = load(file, {"HOME": str(self._folder)})
        assert loaded.policies is not None, loaded.problems
        return loaded.policies

    async def __call__(self, old: Models, new: Models) -> dict[str, bool]:
        def loaded_as(name: str) -> str:
            if name == "lost":
                raise ModelNotFound(name)
            return {"a:variant": "a"}.get(name, name)

        before, after = self.read(old), self.read(new)
        self.pool.told.clear()
        await Pins(self.pool, loaded_as).policies_changed(before, after, diff(before, after))
        assert all(by_policy for _, _, by_policy in self.pool.told)
        return {name: pinned for name, pinned, _ in self.pool.told}


async def test_what_is_loaded_follows_an_edit(follow: Follow) -> None:
    plain: Models = {"a": {}, "b": {}}
    pinned: Models = {"a": {"pinned": True}, "b": {}}

    assert await follow(plain, pinned) == {"a": True, "b": False}
    assert await follow(pinned, plain) == {"a": False, "b": False}
    assert await follow(pinned, {"b": {}}) == {"a": False, "b": False}


async def test_an_edit_of_something_else_tells_nobody(follow: Follow) -> None:
    assert await follow({"a": {"pinned": True}}, {"a": {"pinned": True, "ctx": 99}}) == {}


async def test_a_variant_pins_what_it_shares(follow: Follow) -> None:
    variant: Models = {
        "a": {},
        "a:variant": {"base": "a", "pinned": True},
        "lost": {"pinned": True},
    }

    assert await follow({"a": {}}, variant) == {"a": True, "b": False}
