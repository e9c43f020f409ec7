"""A whole proxy on a port of its own, with one small model, for tests over real sockets."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from proxy.app import Running, Settings, running
from tests.support.models import model
from tests.support.policies import policies as made

MODEL = "org/tiny:4l"
ALIAS = "gpt-4o"


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    """A policy file that a test may rewrite."""
    file = tmp_path / "policies.toml"
    tiny = {"path": model(layers=4), "aliases": [ALIAS], "params": {"temperature": 0.0, "seed": 7}}
    server = {"max_body": "64KiB", "drain": "10s"}
    defaults = {"ctx": 2048, "parallel": 2}
    file.write_text(made({MODEL: tiny}, server=server, defaults=defaults))
    return file


@pytest.fixture
async def proxy(policies: Path) -> AsyncIterator[Running]:
    async with running(Settings(port=0, policies=policies, env={"HOME": "/nonexistent"})) as proxy:
        yield proxy


@pytest.fixture
async def client(proxy: Running) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(proxy.url) as session:
        yield session
