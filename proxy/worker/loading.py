"""When llama-server has loaded its model: told by the step gate where it is in the way, else asked
for."""

import threading
import time
from collections.abc import Callable
from typing import Final

from proxy.worker.gate import Gate

POLL_S: Final = 0.03
FREE_PASSES: Final = 4


def until_loaded(server: threading.Thread, gate: Gate | None, answers: Callable[[], bool]) -> None:
    """Returns when the model is loaded, or the server has ended. Where its task loop begins it
    comes to the gate, if that is in its way, and is not waited for any longer. `answers`: asks it
    whether it is."""
    stopped, passed = False, 0
    while server.is_alive() and not (stopped and gate and gate.knows_loop):
        if answers():
            if gate is not None and gate.steps:
                gate.stopped_within(POLL_S)  # it says so a moment before
            return
        if gate is None:
            time.sleep(POLL_S)
            continue
        if stopped:
            # It also stops once or twice while it loads; for each tensor of a second model.
            gate.pass_by()
            passed += 1
            if passed > FREE_PASSES:
                time.sleep(POLL_S)
        stopped = gate.stopped_within(POLL_S)
