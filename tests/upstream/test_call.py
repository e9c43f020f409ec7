"""Requests to an engine that cannot be reached, by what the system says of it."""

from pathlib import Path

import pytest

from proxy.engine.command import free_port
from proxy.engine.types import Address
from proxy.errors import NotServing
from proxy.upstream.call import Call


async def test_an_engine_that_nobody_listens_for_does_not_serve(tmp_path: Path) -> None:
    for address in (Address(str(tmp_path / "none")), Address(port=free_port())):
        with pytest.raises(NotServing, match=r"does not take connections: [a-z ]+$"):
            async with Call(address, "GET", "/health"):
                pass
