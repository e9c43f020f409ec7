"""`moe-proxy fleet`, as far as it goes without a fleet."""

import subprocess
import sys
from pathlib import Path

import pytest

from proxy.cli import options
from proxy.cli.main import main
from proxy.fleet.cluster import commands
from proxy.fleet.cluster.commands import kept_text, with_port


@pytest.mark.parametrize("words", [["up"], ["status"], ["drain", "a"], ["down"]])
def test_without_ray_it_says_what_to_install(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "find_spec", lambda name: None)

    assert main(["fleet", *words]) == 1
    assert "pip install 'moe-proxy[fleet]'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["up"], ["down"], ["down", "--here"]])
def test_where_it_may_keep_nothing_it_says_so_in_a_line(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(commands, "find_spec", lambda name: name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))

    assert main(["fleet", *words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "file") in line


def test_it_wants_to_know_what(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fleet"]) == 2
    assert "up, status, drain NODE or down" in capsys.readouterr().err


def test_ray_is_imported_by_no_other_command() -> None:
    code = "import sys, proxy.cli.main, proxy.cli.fleet; assert 'ray' not in sys.modules"

    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_head_has_rays_usual_port() -> None:
    assert with_port("10.0.0.1") == "10.0.0.1:6379"
    assert with_port("box:6400") == "box:6400"


@pytest.mark.parametrize(
    "head", ["192.0.2.2:abc", "http://box:6379", "box:0", "box:70000", "b x", "", ":6379", "me@box"]
)
def test_a_head_that_is_no_address_is_told_before_anything_is_begun(
    head: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fleet", "up", "--head", head])

    assert ended.value.code == 2
    assert "use HOST or HOST:PORT" in capsys.readouterr().err


def test_a_head_may_be_named_in_any_way_that_ray_takes() -> None:
    for head in ("10.0.0.1", "box.lan:6400", "b_x", "[fe80::1]:6379", "fe80::1", "box:"):
        assert options.head(head) == head


def test_policies_that_do_not_count_any_more_are_told() -> None:
    said = kept_text([Path("/p/mine.toml.before-fleet")], "attic")

    assert "  /p/mine.toml.before-fleet" in said.splitlines()
    assert "[nodes.attic]" in said
