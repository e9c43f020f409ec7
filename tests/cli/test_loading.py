"""What is said while a command waits for a model."""

import io
import os
from pathlib import Path

import pytest

from proxy.cli.client import Client, model_path
from proxy.cli.loading import CLEAR, how_it_stands, resident_bytes, waiting_for
from tests.support.models import model
from tests.support.policies import policies
from tests.support.served import served

STARTING = {"state": "starting", "pid": 7}
GIB = 1 << 30


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("backends", "size", "resident", "said"),
    [
        ([STARTING], 4 * GIB, GIB, "loading m, 12 s: 1.00 GiB of 4.00 GiB in memory"),
        ([STARTING], GIB, 3 * GIB, "loading m, 12 s: 1.00 GiB of 1.00 GiB in memory"),
        ([STARTING], None, GIB, "loading m, 12 s"),
        ([STARTING], GIB, None, "loading m, 12 s"),
        ([STARTING | {"pid": None}], GIB, GIB, "waiting until m has room, 12 s"),
        ([], GIB, GIB, "waiting until m has room, 12 s"),
        ([{"state": "ready"}], GIB, GIB, "m is loaded; waiting for its answer, 12 s"),
    ],
)
def test_how_it_stands(
    backends: list[dict[str, object]], size: int | None, resident: int | None, said: str
) -> None:
    assert how_it_stands(backends, "m", 12.3, size, lambda _: resident) == said


def test_what_is_in_memory_of_a_process() -> None:
    assert (resident_bytes(os.getpid()) or 0) > 1 << 20
    assert resident_bytes(2**31) is None


@pytest.mark.llama
def test_a_load_is_told_of_until_it_is_over(tmp_path: Path) -> None:
    """By an alias; elsewhere than at a terminal, and where it is quick, nothing is."""
    out, elsewhere, quick = Terminal(), io.StringIO(), Terminal()
    with served(tmp_path, policies({"m": {"path": model(), "ctx": 256, "aliases": ["a"]}})) as url:
        client = Client(url)
        with waiting_for(client, "a", quick, after_s=60.0) as over:
            over()
        with waiting_for(client, "a", out, after_s=0.0, every_s=0.01):
            client.post(model_path("a", "load"))
        with waiting_for(client, "a", elsewhere, after_s=0.0, every_s=0.01):
            client.post(model_path("a", "load"))

    assert f"{CLEAR}loading a, 0 s: " in out.getvalue()
    assert " in memory" in out.getvalue()
    assert out.getvalue().endswith(CLEAR)
    assert elsewhere.getvalue() == ""
    assert quick.getvalue() == ""
