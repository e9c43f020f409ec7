"""A lease gives its backend back once."""

from pathlib import Path

import pytest

from proxy.engine.types import LoadOptions
from proxy.pool.lease import Lease
from proxy.pool.state import Backend


async def test_released_once_whatever_happens_inside() -> None:
    returned: list[str] = []
    lease = Lease(Backend("b1", LoadOptions("m", Path("m.gguf"))), lambda: returned.append("b1"))

    async def use() -> None:
        async with lease:
            assert returned == []
            raise KeyError

    with pytest.raises(KeyError):
        await use()
    lease.release()

    assert returned == ["b1"]
