"""A machine leaves its fleet, or all of it ends. Ray itself is not asked."""

import argparse
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

from proxy.cli import fleet as cli
from proxy.cli.output import ClientError
from proxy.fleet.cluster import leaving, machines, own_ray
from proxy.fleet.cluster.own_ray import Started

pytestmark = pytest.mark.skipif(
    find_spec("ray") is None, reason="Ray is not installed: pip install 'moe-proxy[fleet]'"
)


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[Started]:
    """The Rays that are ended; this machine is the first of three."""
    found: list[Started] = []

    @contextmanager
    def no_problems() -> Iterator[None]:
        yield

    monkeypatch.setattr(own_ray, "started", lambda _: Started(1, "1", "10.0.0.1:6379"))
    monkeypatch.setattr(own_ray, "end", lambda own, _: found.append(own))
    monkeypatch.setattr(leaving, "ray_problems", no_problems)
    monkeypatch.setattr(leaving, "connected", lambda _: None)
    monkeypatch.setattr(leaving, "_own_names", lambda *_: [])
    monkeypatch.setattr(own_ray, "own_machine", lambda _: "m")
    monkeypatch.setattr(machines, "is_head", lambda _: True)
    monkeypatch.setattr(machines, "others", lambda: 2)
    return found


def down_here(*, yes: bool = False) -> int:
    return cli.down(argparse.Namespace(here=True, yes=yes))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_first_machine_does_not_end_all_others_unasked(
    ended: list[Started], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))  # a script's, which answers to nothing

    with pytest.raises(ClientError, match="--yes"):
        down_here()

    assert ended == []
    assert "without it 2 other machines" in capsys.readouterr().err


@pytest.mark.parametrize(("says", "does"), [("y\n", True), ("\n", False), ("", False)])
def test_at_a_terminal_it_asks(
    ended: list[Started], monkeypatch: pytest.MonkeyPatch, says: str, does: bool
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(says))

    if does:
        assert down_here() == 0
    else:
        with pytest.raises(ClientError, match="nothing was done"):
            down_here()

    assert bool(ended) is does


def test_who_has_said_so_is_not_asked(
    ended: list[Started], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())

    assert down_here(yes=True) == 0
    assert len(ended) == 1


@pytest.mark.parametrize(("head", "others"), [(False, 2), (True, 0)])
def test_another_machine_leaves_and_so_does_one_alone(
    ended: list[Started], monkeypatch: pytest.MonkeyPatch, head: bool, others: int
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(machines, "is_head", lambda _: head)
    monkeypatch.setattr(machines, "others", lambda: others)

    assert down_here() == 0
    assert len(ended) == 1
