"""Where the fleet's policies are on a machine whose own files cannot be written."""

import os
from pathlib import Path

import pytest

from proxy.fleet.cluster.directory import Entry
from proxy.fleet.cluster.policy_follower import PolicyFollower
from proxy.fleet.cluster.policy_place import Place, place
from proxy.fleet.cluster.policy_sync import Folder, own_files

GOOD, BETTER = b"[defaults]\nctx = 1024\n", b"[defaults]\nctx = 2048\n"
FLEET = {"p.toml": Entry(1, GOOD)}


class Machine:
    """With its policies, and a folder of its supervisor's."""

    def __init__(self, folder: Path) -> None:
        self.wanted, self.supervisors = folder / "policies", folder / "state"
        self.wanted.mkdir()
        self.supervisors.mkdir()
        self.told: list[tuple[str, bytes | None]] = []

    async def put(self, name: str, text: bytes | None) -> int:
        self.told.append((name, text))
        return 9

    async def place(self, fleet: dict[str, Entry]) -> Place:
        def follower(folder: Folder) -> PolicyFollower:
            return PolicyFollower(folder, {"HOME": str(self.supervisors)}, self.put)

        return await place(self.wanted, self.supervisors, lambda: fleet, follower)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


async def test_it_is_among_its_own_files_where_they_can_be_written(machine: Machine) -> None:
    found = await machine.place(FLEET)

    assert (found.path, found.says) == (machine.wanted, "")
    assert (machine.wanted / "p.toml").read_bytes() == GOOD


async def test_where_something_is_in_the_way_the_fleets_count_all_the_same(
    machine: Machine,
) -> None:
    (machine.wanted / "p.toml").mkdir()

    found = await machine.place(FLEET)

    assert (found.path / "p.toml").read_bytes() == GOOD
    assert found.path.is_relative_to(machine.supervisors)
    assert str(machine.wanted / "p.toml") in found.says
    # It goes on there.
    await found.follower.heard({"p.toml": Entry(2, BETTER)})
    assert (found.path / "p.toml").read_bytes() == BETTER
    (found.path / "p.toml").write_bytes(GOOD)
    await found.follower.look({"p.toml": Entry(2, BETTER)})
    assert machine.told == [("p.toml", GOOD)]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_folder_that_may_not_be_written_is_one(machine: Machine) -> None:
    machine.wanted.chmod(0o500)
    try:
        found = await machine.place(FLEET)
    finally:
        machine.wanted.chmod(0o700)

    assert "permission denied" in found.says


async def test_a_folder_that_cannot_be_made_is_one(machine: Machine) -> None:
    machine.wanted.rmdir()
    machine.wanted = machine.supervisors / "file" / "policies"
    (machine.supervisors / "file").write_bytes(b"")

    assert own_files(machine.wanted) == {}
    found = await machine.place(FLEET)

    assert (found.path / "p.toml").read_bytes() == GOOD
    assert f"cannot be written to {machine.wanted}" in found.says


async def test_what_the_fleet_does_not_write_may_be_as_it_is(machine: Machine) -> None:
    """A folder that only its owner changes, who begins the fleet with it, stays where he edits."""
    (machine.wanted / "p.toml").write_bytes(GOOD)
    (machine.wanted / "other.toml").mkdir()

    found = await machine.place(FLEET)

    assert found.path == machine.wanted


async def test_what_comes_in_the_way_later_is_told_and_the_others_are_taken(
    machine: Machine,
) -> None:
    found = await machine.place(FLEET)
    (machine.wanted / "p.toml").unlink()
    (machine.wanted / "p.toml").mkdir()
    later = {"p.toml": Entry(2, BETTER), "q.toml": Entry(3, BETTER)}

    with pytest.raises(OSError, match=r"p\.toml is no file that can be read"):
        await found.follower.heard(later)

    assert (machine.wanted / "q.toml").read_bytes() == BETTER
    (machine.wanted / "p.toml").rmdir()
    (machine.wanted / "p.toml").write_bytes(GOOD)
    await found.follower.look(later)
    assert machine.told == []
    assert (machine.wanted / "p.toml").read_bytes() == BETTER
