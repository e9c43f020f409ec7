"""What a machine does with its policy files, as it joins and after that."""

from pathlib import Path

from proxy.fleet.cluster.directory import Entry
from proxy.fleet.cluster.policy_sync import Folder, Plan, digest, edits, folder_of, news, on_joining


def test_who_joins_takes_the_set_and_keeps_what_was_its_own_aside() -> None:
    disk = {"same.toml": b"s", "other.toml": b"mine", "own.toml": b"mine too"}
    fleet = {
        "same.toml": Entry(1, b"s"),
        "other.toml": Entry(2, b"theirs"),
        "new.toml": Entry(3, b"n"),
    }

    assert on_joining(disk, fleet, {}) == Plan(
        {"other.toml": b"theirs", "own.toml": None, "new.toml": b"n"},
        frozenset({"other.toml", "own.toml"}),
    )


def test_what_the_fleet_itself_had_given_is_replaced_without_a_copy() -> None:
    """A machine that was off while the others were edited."""
    disk = {"p.toml": b"old", "gone.toml": b"old too"}
    given = {name: digest(text) for name, text in disk.items()}

    plan = on_joining(disk, {"p.toml": Entry(9, b"new"), "gone.toml": Entry(8, None)}, given)

    assert plan == Plan({"p.toml": b"new", "gone.toml": None}, frozenset())


def test_an_edit_is_what_differs_from_the_fleets_last_word() -> None:
    known = {"a.toml": Entry(1, b"a"), "b.toml": Entry(2, b"b"), "gone.toml": Entry(3, None)}

    assert edits({"a.toml": b"a", "b.toml": b"b"}, known) == {}
    assert edits({"a.toml": b"A", "c.toml": b"c"}, known) == {
        "a.toml": b"A",
        "b.toml": None,
        "c.toml": b"c",
    }


def test_news_are_what_has_a_later_number() -> None:
    known = {"a.toml": Entry(5, b"mine")}

    assert news({"a.toml": Entry(4, b"earlier")}, known) == {}
    assert news({"a.toml": Entry(6, b"later"), "b.toml": Entry(1, None)}, known) == {
        "a.toml": Entry(6, b"later"),
        "b.toml": Entry(1, None),
    }


def test_a_file_that_was_edited_in_this_moment_is_not_written_over(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "policies", tmp_path / "record")
    assert folder.write("p.toml", b"1", instead_of=None)

    assert not folder.write("p.toml", b"2", instead_of=b"what was read before")
    assert folder.read() == {"p.toml": b"1"}

    assert folder.write("p.toml", None, instead_of=b"1")
    assert folder.read() == {}


def test_a_link_stays_a_link_and_a_mode_stays(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_bytes(b"1")
    target.chmod(0o600)
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "p.toml").symlink_to(target)

    Folder(tmp_path / "policies", tmp_path / "record").write("p.toml", b"2", instead_of=b"1")

    assert (tmp_path / "policies" / "p.toml").is_symlink()
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (b"2", 0o600)


def test_what_is_kept_aside_is_no_policy(tmp_path: Path) -> None:
    folder = Folder(tmp_path, tmp_path / "record")
    (tmp_path / "p.toml").write_bytes(b"mine")

    kept = folder.keep_aside("p.toml")

    assert kept == tmp_path / "p.toml.before-fleet"
    assert kept.read_bytes() == b"mine"
    assert list(folder.read()) == ["p.toml"]


def test_a_single_file_has_room_for_the_fleets_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"1")
    (tmp_path / "beside.toml").write_bytes(b"not looked at")
    folder = Folder(tmp_path / "mine.toml", tmp_path / "record")

    assert folder.read() == {"mine.toml": b"1"}
    assert folder.takes("mine.toml")
    assert not folder.takes("other.toml")


def test_what_was_given_is_known_after_a_new_start(tmp_path: Path) -> None:
    Folder(tmp_path / "p", tmp_path / "record").note(
        {"p.toml": Entry(1, b"1"), "q.toml": Entry(2, None)}
    )

    assert Folder(tmp_path / "p", tmp_path / "record").given() == {"p.toml": digest(b"1")}


def test_a_record_that_is_none_is_as_if_there_was_none(tmp_path: Path) -> None:
    (tmp_path / "record").write_text("[1")

    assert Folder(tmp_path / "p", tmp_path / "record").given() == {}


def test_the_folder_is_where_serve_looks_or_would(tmp_path: Path) -> None:
    named = {"MOE_PROXY_POLICIES": str(tmp_path / "named"), "HOME": str(tmp_path)}

    assert folder_of(None, named) == tmp_path / "named"
    assert folder_of("/given", named) == Path("/given")
