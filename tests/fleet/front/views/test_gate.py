"""Who may follow a fleet of which one node has API keys of its own."""

import asyncio

import pytest

from tests.fleet.front.conftest import API_KEY, Fleet
from tests.support.guard import HANG_S

pytestmark = [pytest.mark.llama, pytest.mark.asyncio(loop_scope="module")]


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({}, 401),
        ({"X-Moe-Proxy-Node": "n1"}, 401),  # what is told is of all, whoever is named
        ({"Authorization": f"Bearer {API_KEY}"}, 200),
        # A header is no connection's own because its sender says so.
        ({"Authorization": f"Bearer {API_KEY}", "Host": "evil.example", "Connection": "Host"}, 403),
    ],
)
async def test_all_nodes_would_tell_it(fleet: Fleet, said: dict[str, str], status: int) -> None:
    url = f"{fleet.front.url}/admin/events"
    async with asyncio.timeout(HANG_S), fleet.session.get(url, headers=said) as answer:
        assert answer.status == status
