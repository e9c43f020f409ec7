"""Streams that never end, and keys that are withdrawn meanwhile."""

import asyncio
from pathlib import Path

import pytest

from proxy.api import followers
from tests.support.guard import HANG_S
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy


def say(running: Proxy, word: str) -> None:
    """Something that all who follow are told."""
    running.app.services.events.publish("said", word=word)
    running.app.services.log_buffer.write("m", "b1", word)


@pytest.mark.parametrize("path", ["/admin/events", "/logs/stream"])
async def test_nobody_follows_with_a_key_that_is_withdrawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(followers, "EVERY_S", 0.0)
    keys = tmp_path / "keys"
    keys.write_text("boss admin\nguest use\n")
    keys.chmod(0o600)
    text = policies({}, server={"api_keys_file": keys})
    async with proxy(tmp_path, text) as running, asyncio.timeout(HANG_S):
        session = running.session
        guest, boss = ({"x-api-key": name} for name in ("guest", "boss"))
        async with session.get(path, headers=guest) as one, session.get(path, headers=boss) as two:
            say(running, "before")
            for stream in (one, two):
                assert b"before" in await stream.content.readuntil(b"before")
            keys.write_text("boss admin\n")
            say(running, "after")

            assert b"after" not in await one.content.read()
            assert b"after" in await two.content.readuntil(b"after")
        (boss_use,) = (use for use in running.app.services.keys.usage())
        assert boss_use["requests"] == 1, "staying is no request"
