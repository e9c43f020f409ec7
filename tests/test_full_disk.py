"""No room is left where the state is kept: what needs none goes on."""

import signal
from pathlib import Path

import aiohttp
import pytest

from tests.hub import servers
from tests.support.dead_mount import can_mount
from tests.support.models import model
from tests.support.serving import serving, with_policies

pytestmark = [
    pytest.mark.llama,
    pytest.mark.skipif(not can_mount(), reason="a full disk is mounted here, which needs root"),
]

# In a mount namespace of the command's own.
FULL = """
mount -t tmpfs -o size=64k none "$1"
head -c 64k /dev/zero > "$1/zeros" 2>/dev/null
shift; exec "$@"
"""


async def test_it_serves_and_says_what_cannot_be_kept(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    arguments = with_policies(tmp_path, catalog={"state": str(disk / "state")})
    before = ("unshare", "-m", "--propagation", "private", "sh", "-c", FULL, "sh", str(disk))
    async with servers.serving() as hub, serving(tmp_path, *arguments, before=before) as proxy:
        hub.add_model("library/tiny:latest", [("model", model(layers=4).read_bytes())], {})
        async with aiohttp.ClientSession(await proxy.url()) as session:
            pull = {"model": f"{hub.host}/library/tiny", "insecure": True, "stream": False}
            async with session.post("/api/pull", json=pull) as answer:
                refused = await answer.json()
            ask = {"model": "m", "prompt": "hi", "max_tokens": 2}
            async with session.post("/v1/completions", json=ask) as answer:
                assert answer.status == 200
            async with session.get("/api/tags") as answer:
                assert answer.status == 200
        proxy.process.send_signal(signal.SIGTERM)
        assert await proxy.ended() == 0

    assert "no space left on device" in refused["error"]
