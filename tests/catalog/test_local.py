import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from proxy.catalog import local
from proxy.catalog.gguf import GgufError
from proxy.catalog.local import Catalog
from proxy.catalog.summary import Summary
from tests.support.guard import HANG_S
from tests.support.models import model


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"GGUF")


def found(catalog: Catalog) -> list[str]:
    return [entry.name for entry in catalog.list()]


def name_of(catalog: Catalog, name: str) -> str | None:
    entry = catalog.find(name)
    return entry.name if entry else None


def test_lists_what_is_below_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "b-Q8_0.gguf", "x/y/a-Q4_0.GGUF", "notes.txt", ".part.gguf", ".git/c.gguf")

    assert found(Catalog([tmp_path], {})) == ["a-Q4_0", "b-Q8_0"]


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("Qwen3-30B-A3B-Q4_K_M", "Qwen3-30B-A3B-Q4_K_M"),
        ("qwen3-30b-a3b-q4_k_m", "Qwen3-30B-A3B-Q4_K_M"),
        ("Qwen3-30B-A3B:Q4_K_M", "Qwen3-30B-A3B-Q4_K_M"),
        ("qwen3-30b-a3b:q8_0", "Qwen3-30B-A3B-Q8_0"),
        ("Qwen3-30B-A3B-Q8_0:latest", "Qwen3-30B-A3B-Q8_0"),
        ("gpt-oss", "gpt-oss-mxfp4"),
        ("gpt-oss:latest", "gpt-oss-mxfp4"),
        ("plain", "plain"),
        ("Qwen3-30B-A3B", None),
        ("Qwen3-30B-A3B:Q5_0", None),
        ("", None),
    ],
)
def test_names(asked: str, answer: str | None, tmp_path: Path) -> None:
    stems = ("Qwen3-30B-A3B-Q4_K_M", "Qwen3-30B-A3B-Q8_0", "gpt-oss-mxfp4", "plain", "plain-Q8_0")
    touch(tmp_path, *(f"{stem}.gguf" for stem in stems))

    assert name_of(Catalog([tmp_path], {}), asked) == answer


def test_suggests_all_that_an_ambiguous_name_means(tmp_path: Path) -> None:
    touch(tmp_path, "m-Q4_0.gguf", "m-Q8_0.gguf", "other.gguf")
    catalog = Catalog([tmp_path], {})

    assert catalog.nearest("M") == ("m-Q4_0", "m-Q8_0")
    assert catalog.nearest("othr") == ("other",)


def test_same_stem_in_two_folders(tmp_path: Path) -> None:
    touch(tmp_path / "models", "x/m-Q4_0.gguf", "y/m-Q4_0.gguf")
    catalog = Catalog([tmp_path / "models"], {})

    assert found(catalog) == ["models/x/m-Q4_0", "models/y/m-Q4_0"]
    assert catalog.find("m-Q4_0") is None
    assert name_of(catalog, "models/x/m-q4_0") == "models/x/m-Q4_0"
    assert catalog.nearest("m:q4_0") == ("models/x/m-Q4_0", "models/y/m-Q4_0")


def test_a_file_is_listed_once(tmp_path: Path) -> None:
    touch(tmp_path, "a/m.gguf")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "round").symlink_to(tmp_path)
    (tmp_path / "again.gguf").symlink_to(tmp_path / "a" / "m.gguf")

    assert len(Catalog([tmp_path, tmp_path / "a"], {}).list()) == 1


def test_split_model_is_one_entry(tmp_path: Path) -> None:
    parts = [f"big-Q4_0-0000{part}-of-00003.gguf" for part in (1, 2, 3)]
    touch(tmp_path, *parts)

    (entry,) = Catalog([tmp_path], {}).list()

    assert entry.name == "big-Q4_0"
    assert entry.path == tmp_path / parts[0]
    assert [file.name for file in entry.files] == parts
    assert entry.size_bytes == 12


def test_what_cannot_be_used_is_said_and_spoils_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "big-00002-of-00002.gguf", "good.gguf")
    (tmp_path / "dangling.gguf").symlink_to(tmp_path / "gone")
    missing = tmp_path / "missing"

    catalog = Catalog([missing, tmp_path], {"mine": tmp_path / "nowhere.gguf"})

    assert found(catalog) == ["good"]
    assert catalog.problems.keys() == {
        "mine",
        str(missing),
        str(tmp_path / "big-00002-of-00002.gguf"),
        str(tmp_path / "dangling.gguf"),
    }
    assert "parts are missing" in catalog.problems[str(tmp_path / "big-00002-of-00002.gguf")]


def test_only_files_are_models(tmp_path: Path) -> None:
    """A pipe would keep everybody waiting who opens it."""
    touch(tmp_path, "good.gguf", "v/eyes.gguf")
    os.mkfifo(tmp_path / "pipe.gguf")
    os.mkfifo(tmp_path / "v/mmproj-F16.gguf")
    (tmp_path / "device.gguf").symlink_to("/dev/zero")
    (tmp_path / "loop.gguf").symlink_to("loop.gguf")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.gguf"))

    catalog = Catalog([tmp_path], {"named": tmp_path / "pipe.gguf"})

    assert {entry.name: entry.projector for entry in catalog.list()} == {"good": None, "eyes": None}
    assert {Path(where).name for where in catalog.problems} == {
        "named", "pipe.gguf", "device.gguf", "loop.gguf", "socket.gguf"
    }  # fmt: skip
    assert catalog.summaries()["good"] == Summary()


def test_folders_without_end_spoil_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "good.gguf")
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=folder)
        inner = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)

    catalog = Catalog([tmp_path], {})

    assert found(catalog) == ["good"]
    assert len(catalog.problems) == 1
    # The library's own way to remove a tree gives up on this one.
    subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)


def test_a_name_that_is_not_utf8_is_said_and_spoils_nothing(tmp_path: Path) -> None:
    """Requests and answers could not name it."""
    touch(tmp_path, "good.gguf")
    for odd in (b"m\xff.gguf", b"other\xff.txt"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + odd)).write_bytes(b"GGUF")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/in\xff")).mkdir()

    catalog = Catalog([tmp_path], {"mine": tmp_path / "good.gguf"})

    assert found(catalog) == ["mine"]
    assert catalog.problems.keys() == {f"{tmp_path}/m\ufffd.gguf", f"{tmp_path}/in\ufffd"}
    assert "not UTF-8" in catalog.problems[f"{tmp_path}/in\ufffd"]


def test_named_models(tmp_path: Path) -> None:
    touch(tmp_path, "in/gpt-oss-mxfp4.gguf", "in/a.gguf", "out/blob")
    named: Mapping[str, Path] = {
        "gpt-oss:120b": tmp_path / "in/gpt-oss-mxfp4.gguf",
        "a": tmp_path / "out/blob",
    }
    catalog = Catalog([tmp_path / "in"], named)

    assert found(catalog) == ["a", "gpt-oss:120b", "in/a"]
    assert name_of(catalog, "GPT-OSS:120B") == "gpt-oss:120b"
    assert name_of(catalog, "gpt-oss-mxfp4") == "gpt-oss:120b"
    assert (entry := catalog.find("a"))
    assert entry.path == tmp_path / "out/blob"


def test_projectors_are_not_models(tmp_path: Path) -> None:
    touch(tmp_path, "v/gemma-Q4_0.gguf", "v/gemma-Q8_0.gguf", "v/mmproj-F16.gguf", "w/plain.gguf")
    catalog = Catalog([tmp_path / "w"], {"eyes": tmp_path / "v/gemma-Q4_0.gguf"})

    assert {entry.name: entry.projector for entry in catalog.list()} == {
        "eyes": tmp_path / "v/mmproj-F16.gguf",
        "plain": None,
    }
    projectors = {entry.projector for entry in Catalog([tmp_path / "v"], {}).list()}
    assert projectors == {tmp_path / "v/mmproj-F16.gguf"}


def test_refresh_sees_what_came_and_went(tmp_path: Path) -> None:
    touch(tmp_path, "a.gguf")
    catalog = Catalog([tmp_path], {})
    touch(tmp_path, "b.gguf")
    (tmp_path / "a.gguf").unlink()
    assert found(catalog) == ["a"]

    catalog.refresh()

    assert found(catalog) == ["b"]


def test_what_is_not_usable_is_told_once(tmp_path: Path) -> None:
    touch(tmp_path, "m-00001-of-00002.gguf", "a.gguf")

    with capture_logs() as logs:
        catalog = Catalog([tmp_path], {})
        catalog.refresh()
        (tmp_path / "b.gguf").symlink_to(tmp_path / "nothing")
        catalog.refresh()

    assert [(line["event"], Path(line["where"]).name) for line in logs] == [
        ("model_not_usable", "m-00001-of-00002.gguf"),
        ("model_not_usable", "b.gguf"),
    ]
    assert "1 of 2 parts are missing" in logs[0]["why"]


def test_use_changes_where_it_looks(tmp_path: Path) -> None:
    touch(tmp_path, "one/a.gguf", "two/b.gguf", "c.gguf")
    catalog = Catalog([tmp_path / "one"], {})

    catalog.use([tmp_path / "two"], {"named": tmp_path / "c.gguf"})

    assert found(catalog) == ["b", "named"]


def test_a_scan_that_began_earlier_does_not_come_out_on_top(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "one/a.gguf", "two/b.gguf")
    catalog = Catalog([tmp_path / "one"], {})
    scan, scanned, later = local._scan, threading.Event(), threading.Event()

    def slow(places: local.Places) -> Any:
        index = scan(places)
        if places.dirs == (tmp_path / "two",):
            later.set()
        else:
            scanned.set()
            # Until the later one has ended, unless that waits for this one.
            later.wait(0.2)
        return index

    monkeypatch.setattr(local, "_scan", slow)
    earlier = threading.Thread(target=catalog.refresh)
    earlier.start()
    assert scanned.wait(HANG_S)
    catalog.use([tmp_path / "two"], {})
    earlier.join(HANG_S)

    assert found(catalog) == ["b"]


def test_header_is_read_again_only_when_the_file_changed(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    shutil.copy(model("qwen3moe", layers=2), path)
    catalog = Catalog([tmp_path], {})
    (entry,) = catalog.list()
    first = catalog.header(entry)
    assert first.is_moe
    catalog.refresh()

    assert catalog.header(entry) is first

    shutil.copy(model("qwen3", layers=2), path)
    os.utime(path, (1, 1))
    assert not catalog.header(entry).is_moe

    path.write_bytes(b"rubbish")
    with pytest.raises(GgufError, match=r"m\.gguf: byte 4: this is not a GGUF file"):
        catalog.header(entry)


def test_a_scan_that_hangs_is_not_waited_for_and_does_not_come_out_on_top(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its disk may come back when it is not looked at any more."""
    touch(tmp_path, "dead/a.gguf", "live/b.gguf")
    begun, back = threading.Event(), threading.Event()
    scan = local._scan

    def hangs_on_dead(places: local.Places) -> Any:
        index = scan(places)
        if places.dirs == (tmp_path / "dead",):
            begun.set()
            assert back.wait(HANG_S)
        return index

    monkeypatch.setattr(local, "_scan", hangs_on_dead)
    catalog = Catalog([tmp_path / "dead"], {}, look=False, hangs_after_s=0.01)
    hanging = threading.Thread(target=catalog.refresh)
    hanging.start()
    assert begun.wait(HANG_S)

    catalog.use([tmp_path / "live"], {})
    assert found(catalog) == ["b"]
    back.set()
    hanging.join(HANG_S)

    assert found(catalog) == ["b"]
