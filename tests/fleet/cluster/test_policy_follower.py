"""Machines whose policy files are one set: real files, watched, around a directory without Ray."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.clock import RealClock
from proxy.fleet.cluster.directory import Directory, Entry
from proxy.fleet.cluster.policy_follower import PolicyFollower
from proxy.fleet.cluster.policy_sync import Folder
from proxy.tasks import Loops
from tests.support.guard import until

ANOTHER = b'[server]\ndrain = "7s"\n'
GOOD, BETTER, BAD = (
    b"[defaults]\nctx = 1024\n",
    b"[defaults]\nctx = 2048\n",
    b"[defaults]\nctx = \n",
)


class Fleet:
    """The directory, and what each machine hears of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.directory = folder, Directory()
        self.directory.make_key()
        self.followers: list[PolicyFollower] = []
        self.holds = asyncio.Event()  # whether the directory answers
        self.holds.set()

    def entries(self) -> dict[str, Entry]:
        return dict(self.directory.news().memory.policies or {})

    async def put(self, name: str, text: bytes | None) -> int:
        await self.holds.wait()
        number = self.directory.put(name, text)
        return number

    def path(self, machine: str, name: str = "p.toml") -> Path:
        return self.folder / machine / name

    @asynccontextmanager
    async def machine(self, name: str) -> AsyncIterator[PolicyFollower]:
        follower = PolicyFollower(
            Folder(self.folder / name, self.folder / f"{name}.json"),
            {"HOME": str(self.folder)},
            self.put,
        )
        await follower.join(self.entries())
        loops = Loops(RealClock())

        async def hear() -> None:
            version = -1
            while True:
                if self.directory.version != version:
                    version = self.directory.version
                    await follower.heard(self.entries())
                await asyncio.sleep(0.01)

        async with AsyncExitStack() as stack:
            for run in (follower.watch, lambda: follower.tell_edits(self.entries), hear):
                await stack.enter_async_context(loops.background(run, name="follower"))
            yield follower


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    """Two machines with the same good policies."""
    made = Fleet(tmp_path)
    made.directory.seed({"p.toml": GOOD})
    async with made.machine("a"), made.machine("b"):
        yield made


async def test_an_edit_here_is_written_there(fleet: Fleet) -> None:
    fleet.path("a").write_bytes(BETTER)

    await until(lambda: fleet.path("b").read_bytes() == BETTER, "the edit is there")


async def test_a_new_file_and_its_end_are_told_too(fleet: Fleet) -> None:
    fleet.path("a", "new.toml").write_bytes(ANOTHER)
    await until(fleet.path("b", "new.toml").exists, "the new file is there")

    fleet.path("b", "new.toml").unlink()
    await until(lambda: not fleet.path("a", "new.toml").exists(), "it is gone here too")


async def test_what_is_no_policy_stays_where_it_is_until_it_is_good(fleet: Fleet) -> None:
    with capture_logs() as logs:
        fleet.path("a").write_bytes(BAD)
        await until(
            lambda: [each for each in logs if each["event"] == "fleet_policy_stays_here"],
            "a word of it",
        )
    assert fleet.path("b").read_bytes() == GOOD
    assert fleet.entries()["p.toml"].text == GOOD

    fleet.path("a").write_bytes(BETTER)
    await until(lambda: fleet.path("b").read_bytes() == BETTER, "the good one is there")


async def test_of_two_edits_at_once_the_same_one_is_everywhere(fleet: Fleet) -> None:
    fleet.holds.clear()
    fleet.path("a").write_bytes(b"[defaults]\nctx = 3072\n")
    fleet.path("b").write_bytes(b"[defaults]\nctx = 4096\n")
    fleet.holds.set()

    def agreed() -> bool:
        texts = {fleet.path(name).read_bytes() for name in "ab"}
        return len(texts) == 1 and texts != {GOOD} and texts == {fleet.entries()["p.toml"].text}

    await until(agreed, "both machines have the later one")


async def test_an_edit_is_told_once(fleet: Fleet) -> None:
    """What was written here since another machine has told it is no edit of this one."""
    before = fleet.directory.news().memory.number
    fleet.path("a").write_bytes(BETTER)
    await until(lambda: fleet.path("b").read_bytes() == BETTER, "the edit is there")
    fleet.path("b", "q.toml").write_bytes(ANOTHER)
    await until(fleet.path("a", "q.toml").exists, "another edit, back")

    assert fleet.directory.news().memory.number == before + 2


async def test_a_machine_that_comes_later_has_the_set_at_once(fleet: Fleet) -> None:
    fleet.path("c").parent.mkdir()
    fleet.path("c").write_bytes(b"# mine\n")

    async with fleet.machine("c"):
        assert fleet.path("c").read_bytes() == GOOD
        assert fleet.path("c", "p.toml.before-fleet").read_bytes() == b"# mine\n"
    assert fleet.path("a").read_bytes() == GOOD
