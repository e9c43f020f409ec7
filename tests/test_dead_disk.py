"""A disk that does not answer any more, beside those that do: what is on the others is served."""

import asyncio
import signal
from pathlib import Path

import aiohttp
import pytest

from tests.support.dead_mount import can_mount, dead_mount
from tests.support.guard import HANG_S, until
from tests.support.serving import Serving, serving, with_policies

pytestmark = [
    pytest.mark.llama,
    pytest.mark.skipif(not can_mount(), reason="a dead disk is mounted here, which needs root"),
]


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Where the dead disk is going to be."""
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder


async def ended_in_order(proxy: Serving) -> None:
    """After one signal, whatever still waits."""
    proxy.process.send_signal(signal.SIGTERM)
    assert await proxy.ended() == 0
    assert not proxy.folders()


async def test_models_on_other_disks_are_served_and_listed(tmp_path: Path, disk: Path) -> None:
    arguments = with_policies(tmp_path)
    async with serving(tmp_path, *arguments, before=dead_mount(disk)) as proxy:
        async with aiohttp.ClientSession(await proxy.url()) as session:
            with_policies(tmp_path, catalog={"dirs": [str(disk)]})
            await proxy.logged("policies_changed")

            async def ask(path: str, body: object = None) -> int:
                method = "GET" if body is None else "POST"
                async with (
                    asyncio.timeout(HANG_S),
                    session.request(method, path, json=body) as answer,
                ):
                    await answer.read()
                    return answer.status

            tags = await asyncio.gather(*(ask("/api/tags") for _ in range(20)))
            answer = await ask("/v1/completions", {"model": "m", "prompt": "hi", "max_tokens": 2})
            unknown = await ask("/v1/completions", {"model": "nobody", "prompt": "hi"})

            assert (set(tags), answer, unknown) == ({200}, 200, 404)
        await ended_in_order(proxy)


async def test_a_start_that_waits_for_a_disk_can_be_given_up(tmp_path: Path, disk: Path) -> None:
    arguments = with_policies(tmp_path, catalog={"dirs": [str(disk)]})
    async with serving(tmp_path, *arguments, before=dead_mount(disk)) as proxy:
        await until(lambda: _hangs(proxy), "it looks for models")
        await ended_in_order(proxy)


async def test_policies_are_followed_again_once_they_do_not_lead_there(
    tmp_path: Path, disk: Path
) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    _, _, _, file = with_policies(tmp_path)
    Path(file).rename(folder / "a.toml")
    arguments = ("--port", "0", "--policies", str(folder))
    async with serving(tmp_path, *arguments, before=dead_mount(disk)) as proxy:
        await proxy.url()
        (folder / "z.toml").symlink_to(disk / "z.toml")
        assert (await proxy.logged("loop_failed"))["loop"] == "policies"
        (folder / "z.toml").unlink()
        (folder / "b.toml").write_text("defaults.ctx = 5")
        assert (await proxy.logged("policies_changed"))["defaults"] == ["ctx"]
        await ended_in_order(proxy)


def _hangs(proxy: Serving) -> bool:
    """Whether a thread waits in a file system in user space."""
    tasks = Path(f"/proc/{proxy.pid}/task").iterdir()
    return any("fuse" in (task / "wchan").read_text() for task in tasks)
