"""A backend without a process can be asked like any other."""

import pytest

from proxy.engine.not_started import NOT_STARTED, WHY_NOT
from proxy.engine.types import Status
from proxy.errors import BackendDied, Conflict, LoadFailed


async def test_it_has_nothing_and_says_so() -> None:
    assert NOT_STARTED.known() == Status(block_count=0)
    assert await NOT_STARTED.devices() == ()
    assert NOT_STARTED.pid is None
    assert not NOT_STARTED.live_moves
    assert not NOT_STARTED.moves_by_reload
    assert NOT_STARTED.why_no_moves == WHY_NOT


async def test_what_needs_a_process_is_refused() -> None:
    with pytest.raises(BackendDied, match=WHY_NOT):
        NOT_STARTED.address  # noqa: B018 - reading it raises
    with pytest.raises(BackendDied, match=WHY_NOT):
        await NOT_STARTED.wait_exit()
    with pytest.raises(LoadFailed, match=WHY_NOT):
        await NOT_STARTED.start()
    with pytest.raises(Conflict, match=WHY_NOT):
        await NOT_STARTED.place({0: "CPU"})
    await NOT_STARTED.stop()
