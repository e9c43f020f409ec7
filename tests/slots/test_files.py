"""The folder of saved slots."""

import os
import stat
from pathlib import Path

import pytest

from proxy.slots import files
from proxy.slots.files import LEFT_BYTES, LEFT_RAM_BYTES, SlotFiles, is_in_ram

GIB = 1 << 30


def mounts_with(folder: Path, kind: str) -> str:
    """What the kernel says of mounts, with the folder's file system being of this kind."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    return f"1 0 999:9 / / rw - ext4 x rw\n2 1 {number} / /run rw,nosuid shared:5 - {kind} x rw\n"


def test_nobody_else_may_look_into_it(tmp_path: Path) -> None:
    made = SlotFiles(tmp_path / "slots")

    assert stat.S_IMODE(made.folder.stat().st_mode) == 0o700


def test_names_are_not_guessed_and_tell_whose_they_are(tmp_path: Path) -> None:
    made = SlotFiles(tmp_path / "slots")
    first, second = made.new_name("b1"), made.new_name("b1")

    assert first != second
    assert first.startswith("b1-")
    assert len(first) > 32


def test_what_a_backend_left_is_swept_but_not_what_is_kept(tmp_path: Path) -> None:
    made = SlotFiles(tmp_path / "slots")
    names = ["b1-x", "b1-kept", "b10-y"]
    for name in names:
        (made.folder / name).write_bytes(b"123")

    assert made.size_bytes("b1-x") == 3
    made.sweep("b1", {"b1-kept"})
    made.remove("b1-never-there")

    assert sorted(p.name for p in made.folder.iterdir()) == ["b1-kept", "b10-y"]
    assert made.size_bytes("b1-x") == 0


def test_the_kind_of_a_file_system_is_told(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    for kind, in_ram in (("tmpfs", True), ("ramfs", True), ("ext4", False)):
        mounts.write_text(mounts_with(tmp_path, kind))
        assert is_in_ram(tmp_path, mounts) is in_ram
    mounts.write_text("")
    assert not is_in_ram(tmp_path, mounts)
    assert not is_in_ram(tmp_path, tmp_path / "no such file")


def test_on_a_disk_there_is_room_as_far_as_it_has_some(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    made = SlotFiles(tmp_path / "slots", ram_bytes=lambda: None)
    if is_in_ram(tmp_path):
        pytest.skip("temporary files are in RAM here")

    assert 0 < made.room_bytes() <= disk.f_blocks * disk.f_frsize - LEFT_BYTES


@pytest.mark.parametrize(
    ("available", "room"), [(None, 0), (GIB // 2, 0), (LEFT_RAM_BYTES + 4096, 4096)]
)
def test_in_ram_it_is_what_others_leave_of_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, available: int | None, room: int
) -> None:
    monkeypatch.setattr(files, "is_in_ram", lambda folder: True)
    made = SlotFiles(tmp_path / "slots", ram_bytes=lambda: available)

    assert made.room_bytes() == room
