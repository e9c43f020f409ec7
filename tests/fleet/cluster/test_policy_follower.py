"""Machines whose policy files are one set: real files, watched, around a directory without Ray."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
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


async def test_what_cannot_be_read_here_stops_nobody_s_edits(fleet: Fleet) -> None:
    """Also not by its name: what is no text breaks whatever writes it down."""
    os.mkfifo(fleet.path("a", "pipe.toml"))
    fleet.path("a", "\udcff.toml").write_bytes(BETTER)

    fleet.path("b").write_bytes(BETTER)
    await until(lambda: fleet.path("a").read_bytes() == BETTER, "it came from b")
    # A pipe among the policies is no good set of them, which a strange name is.
    fleet.path("a", "pipe.toml").unlink()
    fleet.path("a").write_bytes(ANOTHER)
    await until(lambda: fleet.path("b").read_bytes() == ANOTHER, "it came from a")

    assert [file.name for file in fleet.path("b").parent.iterdir()] == ["p.toml"]


async def test_a_file_that_became_unreadable_is_not_removed_elsewhere(fleet: Fleet) -> None:
    fleet.path("a").unlink()
    fleet.path("a").mkdir()
    await fleet.put("q.toml", ANOTHER)
    await until(lambda: fleet.path("a", "q.toml").exists(), "q is there")

    assert fleet.path("b").read_bytes() == GOOD


async def test_one_file_that_cannot_be_written_holds_up_no_other(fleet: Fleet) -> None:
    fleet.path("a", "lost.toml").symlink_to("/nowhere/lost.toml")

    await fleet.put("lost.toml", BETTER)
    await fleet.put("z.toml", ANOTHER)

    await until(lambda: fleet.path("a", "z.toml").exists(), "z is there")


class Counting(Folder):
    """Of how many files it has read or written the set as a whole."""

    def __init__(self, path: Path, record: Path) -> None:
        super().__init__(path, record)
        self.reads = self.notes = 0

    def read(self) -> dict[str, bytes]:
        self.reads += 1
        return super().read()

    def note(self, known: Mapping[str, Entry]) -> None:
        self.notes += 1
        super().note(known)


async def test_many_files_are_written_as_quickly_as_each_alone(tmp_path: Path) -> None:
    """The whole set is not looked at for each of them, nor written down."""
    made = Fleet(tmp_path)
    folder = Counting(tmp_path / "a", tmp_path / "a.json")
    follower = PolicyFollower(folder, {"HOME": str(tmp_path)}, made.put)
    counts = []
    text = '[models."{}"]\npath = "/models/{}.gguf"\n'
    for names in (["x"], [f"x{number}" for number in range(40)]):
        folder.reads = folder.notes = 0
        for name in names:
            await made.put(f"{name}.toml", text.format(name, name).encode())
        await follower.heard(made.entries())
        edited = {name: text.format(name, "other").encode() for name in names}
        for name in names:
            made.path("a", f"{name}.toml").write_bytes(edited[name])
        await follower.look(made.entries())
        assert {name: made.entries()[f"{name}.toml"].text for name in names} == edited
        for name in names:
            made.path("a", f"{name}.toml").unlink()
        await follower.look(made.entries())
        counts.append((folder.reads, folder.notes))
    assert counts[0] == counts[1]
    assert folder.given() == {}
