"""What policy files said before."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.api.policy_versions import KEPT, PolicyVersions
from proxy.errors import NotFound


def test_the_last_ones_are_kept_newest_first(tmp_path: Path) -> None:
    versions = PolicyVersions(tmp_path, Path("/etc/mine.toml"))
    assert versions.all() == []

    for number in range(KEPT + 5):
        versions.keep(b"x" * number)

    found = versions.all()
    assert [each["bytes"] for each in found] == list(range(KEPT + 4, 4, -1))
    assert versions.read(found[0]["id"]) == b"x" * (KEPT + 4)


def test_one_text_is_kept_once_and_each_file_has_its_own(tmp_path: Path) -> None:
    one, other = (PolicyVersions(tmp_path, Path(f"/{folder}/mine.toml")) for folder in "ab")
    one.keep(b"text")
    one.keep(b"text")

    assert (len(one.all()), len(other.all())) == (1, 0)


def test_nobody_else_can_read_them(tmp_path: Path) -> None:
    PolicyVersions(tmp_path, Path("/p.toml")).keep(b"secret")

    (folder,) = (tmp_path / "policies").iterdir()
    (file,) = folder.iterdir()
    assert (folder.stat().st_mode & 0o77, file.stat().st_mode & 0o77) == (0, 0)


@pytest.mark.parametrize("name", ["", "../p.toml", "20260101T000000000000Z", "x/../y"])
def test_what_is_no_version_is_not_found(tmp_path: Path, name: str) -> None:
    versions = PolicyVersions(tmp_path, Path("/p.toml"))
    versions.keep(b"text")

    with pytest.raises(NotFound):
        versions.read(name)


def test_what_cannot_be_kept_is_told_and_keeps_nobody_from_saving(tmp_path: Path) -> None:
    (tmp_path / "policies").write_text("a file in its place")
    with capture_logs() as logs:
        PolicyVersions(tmp_path, Path("/p.toml")).keep(b"text")
        PolicyVersions(tmp_path / "none", Path("/p.toml")).keep(b"text")

    assert [line["event"] for line in logs] == ["policy_version_not_kept"] * 2
    assert not (tmp_path / "none").exists()
