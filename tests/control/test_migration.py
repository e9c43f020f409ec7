"""The moves of one backend's experts, on a real worker with a device."""

from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from proxy.clock import RealClock
from proxy.control.migration import Migration
from proxy.engine.types import CPU, Layer, LoadOptions, Status
from proxy.errors import BackendDied
from proxy.observe.events import EventLog
from proxy.placement.assign import placed
from proxy.pool.state import Backend, BackendState
from tests.support.control import controller_of, desired_of
from tests.support.llama import rpc_server
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import proxy

pytestmark = pytest.mark.llama

# One that names a split waits until it is known what devices there are.
BODY = {"model": "m", "prompt": "the quick brown fox", "max_tokens": 1, "moe_cpu_layers": "full"}


class Ending:
    """An engine whose worker ends while it moves."""

    def known(self) -> Status:
        return Status(1, (Layer(0, CPU, 100, CPU),))

    async def place(self, goal: object, **_: object) -> None:
        raise BackendDied("the worker was ended")


@pytest.mark.parametrize(
    ("state", "level", "error"),
    [
        (BackendState.READY, "warning", "the worker was ended"),
        (BackendState.DRAINING, "debug", None),
        (BackendState.STOPPING, "debug", None),
    ],
)
async def test_a_model_that_is_unloaded_takes_its_moves_with_it(
    state: BackendState, level: str, error: str | None
) -> None:
    """Nobody is warned of what was asked for."""
    engine: Any = Ending()
    backend = Backend("b1", LoadOptions("m", Path("m.gguf")), state=state, engine=engine)
    events = EventLog()
    way = Migration(backend, events=events, clock=RealClock(), on_short=print)

    with events.subscribe() as followed, capture_logs() as logged:
        await way.start({0: "GPU"}, "free", settle_s=0)
        events.close()
        told = [event.fields async for event in followed if event.kind == "not_moved"]

    assert [fields["error"] for fields in told] == [error]
    assert [line["log_level"] for line in logged if line["event"] == "move_failed"] == [level]


async def test_what_the_worker_refuses_is_not_on_its_way(tmp_path: Path) -> None:
    m = {"path": model(layers=4), "moe_cpu_layers": "full", "ctx": 512, "parallel": 1}
    async with (
        rpc_server() as rpc,
        proxy(tmp_path, policies({"m": m}, devices={"rpc": [rpc]})) as served,
    ):
        await served.post("/v1/completions", BODY)
        controller = controller_of(served.app.services)
        desired = desired_of(served.app.services)
        (backend,) = served.app.services.pool.backends()

        controller.set_targets(backend, {2: "nowhere", 3: "RPC0"}, "free")
        await desired.wait_idle([backend])
        assert desired.goal(backend) == placed(backend.engine.known())

        controller.set_targets(backend, {3: "RPC0"}, "free")
        await desired.wait_idle([backend])
        assert placed(backend.engine.known()) == {0: CPU, 1: CPU, 2: CPU, 3: "RPC0"}
