"""Who is told of backends, and in which order."""

from pathlib import Path

import pytest

from proxy.engine.types import LoadOptions
from proxy.pool.hooks import Hooks
from proxy.pool.state import Backend

BACKEND = Backend("b1", LoadOptions("m", Path("m.gguf")))


class Part:
    """Takes down what it is told."""

    def __init__(self, name: str, told: list[str]) -> None:
        self._name, self._told = name, told

    async def prepare(self, backend: Backend) -> None:
        self.hear(backend)

    def hear(self, backend: Backend) -> None:
        self._told.append(f"{self._name} {backend.id}")


async def test_all_are_told_in_the_order_in_which_they_subscribed() -> None:
    hooks, told = Hooks(), list[str]()
    for name in "abc":
        part = Part(name, told)
        hooks.subscribe(before_start=part.prepare, ready=part.hear, idle=part.hear, gone=part.hear)

    for tell in (hooks.ready, hooks.idle, hooks.gone):
        tell(BACKEND)
        assert told == ["a b1", "b b1", "c b1"]
        told.clear()
    await hooks.before_start(BACKEND)
    assert told == ["a b1", "b b1", "c b1"]


async def test_each_hears_only_what_it_asked_for() -> None:
    hooks, told = Hooks(), list[str]()
    hooks.subscribe(idle=Part("a", told).hear)

    await hooks.before_start(BACKEND)
    hooks.ready(BACKEND)
    hooks.gone(BACKEND)
    assert told == []
    hooks.idle(BACKEND)
    assert told == ["a b1"]


def test_one_that_crashes_keeps_nobody_from_anything() -> None:
    hooks, told = Hooks(), list[str]()

    def broken(backend: Backend) -> None:
        raise RuntimeError("a bug in a listener")

    hooks.subscribe(ready=broken)
    hooks.subscribe(ready=Part("a", told).hear)
    hooks.ready(BACKEND)

    assert told == ["a b1"]


async def test_a_step_that_raises_ends_the_preparation() -> None:
    hooks, told = Hooks(), list[str]()

    async def refuse(backend: Backend) -> None:
        raise RuntimeError("no")

    hooks.subscribe(before_start=refuse)
    hooks.subscribe(before_start=Part("a", told).prepare)

    with pytest.raises(RuntimeError, match="no"):
        await hooks.before_start(BACKEND)
    assert told == []
