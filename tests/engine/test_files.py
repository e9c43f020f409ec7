"""What of a load's files is looked at."""

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.engine import files
from proxy.engine.files import files_now, files_of
from proxy.engine.types import LoadOptions


@pytest.fixture
def options(tmp_path: Path) -> LoadOptions:
    for name in ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "p.gguf", "a.gguf", "t.jinja"):
        (tmp_path / name).write_text(name)
    program = tmp_path / "server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return LoadOptions(
        "m",
        tmp_path / "m-00001-of-00002.gguf",
        projector=tmp_path / "p.gguf",
        adapters=(tmp_path / "a.gguf",),
        template=tmp_path / "t.jinja",
        command=(str(program), "{port}"),
    )


def grows(path: Path) -> None:
    path.write_text(path.read_text() + "more")


def is_replaced_by_one_of_the_same_age_and_size(path: Path) -> None:
    found, new = path.stat(), path.with_suffix(".new")
    new.write_bytes(path.read_bytes())
    os.utime(new, ns=(found.st_atime_ns, found.st_mtime_ns))
    new.replace(path)


@pytest.mark.parametrize(
    "name",
    ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "p.gguf", "a.gguf", "t.jinja", "server"],
)
@pytest.mark.parametrize(
    "change", [grows, is_replaced_by_one_of_the_same_age_and_size, Path.unlink]
)
def test_a_change_of_any_is_seen(
    options: LoadOptions, tmp_path: Path, name: str, change: Callable[[Path], None]
) -> None:
    before = files_of(options)
    assert files_of(options) == before

    change(tmp_path / name)

    assert files_of(options) != before


@pytest.mark.parametrize("name", ["not there.gguf", "a\0b.gguf", "x-00001-of-99999.gguf"])
def test_what_is_not_there_is_no_error(tmp_path: Path, name: str) -> None:
    assert files_of(LoadOptions("m", tmp_path / name)) == ()


def test_other_options_of_the_same_files_are_the_same_files(options: LoadOptions) -> None:
    assert files_of(replace(options, ctx=1)) == files_of(options)


async def test_a_disk_that_does_not_answer_is_not_waited_for(
    options: LoadOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await files_now(options) == files_of(options)
    answers = threading.Event()
    monkeypatch.setattr(files, "LOOK_S", 0.01)
    monkeypatch.setattr(files, "files_of", lambda _: answers.wait() and ())

    try:
        assert await files_now(options) is None
    finally:
        answers.set()
