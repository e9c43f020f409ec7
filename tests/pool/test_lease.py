"""A lease gives its backend back once."""

from pathlib import Path

import pytest

from proxy.engine.types import LoadOptions
from proxy.pool.lease import Lease
from proxy.pool.state import Backend


async def test_released_once_whatever_happens_inside() -> None:
    returned: list[bool] = []
    lease = Lease(Backend("b1", LoadOptions("m", Path("m.gguf"))), returned.append)

    async def use() -> None:
        async with lease:
            assert returned == []
            raise KeyError

    with pytest.raises(KeyError):
        await use()
    lease.release()

    assert returned == [False]


def test_it_tells_of_an_answer_when_it_is_released() -> None:
    returned: list[bool] = []
    lease = Lease(Backend("b1", LoadOptions("m", Path("m.gguf"))), returned.append)

    lease.answered()
    assert returned == []
    lease.release()

    assert returned == [True]
