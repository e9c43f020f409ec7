"""What units say for an installation, and what is done to those that are there."""

from pathlib import Path

import pytest

from proxy.service import units
from proxy.service.units import SERVICE, SOCKET, change, hidden_from_service, is_as_written, unit

PROGRAM = Path("/srv/moe proxy 100%/bin/moe-proxy")


def lines(text: str, key: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(f"{key}=")]


@pytest.mark.parametrize("user", [False, True])
def test_a_unit_starts_this_installation_and_is_the_template_otherwise(user: bool) -> None:
    template, ours = units.template(SERVICE, user=user), unit(SERVICE, PROGRAM, user=user)

    (start,) = lines(ours, "ExecStart")
    assert start.startswith('ExecStart="/srv/moe proxy 100%%/bin/moe-proxy" serve')
    others = [line for line in template.splitlines() if not line.startswith("ExecStart=")]
    assert [line for line in ours.splitlines() if not line.startswith("ExecStart=")][:-1] == others


@pytest.mark.parametrize("user", [False, True])
def test_a_socket_unit_is_the_template(user: bool) -> None:
    assert unit(SOCKET, PROGRAM, user=user).startswith(units.template(SOCKET, user=user))


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/opt/moe-proxy/bin/moe-proxy", "/opt/moe-proxy/bin/moe-proxy"),
        ("/a b/c", '"/a b/c"'),
        ('/a"b/c', '"/a\\"b/c"'),
        ("/a\\b", '"/a\\\\b"'),
        ("/a%h/b", "/a%%h/b"),
    ],
)
def test_a_path_is_one_word(path: str, word: str) -> None:
    assert units.quoted(path) == word


def test_a_unit_of_ours_is_known_from_an_edited_one() -> None:
    ours = unit(SERVICE, PROGRAM, user=False)

    assert is_as_written(ours)
    assert not is_as_written(ours.replace("WatchdogSec=60", "WatchdogSec=10"))
    assert not is_as_written(ours + "LimitNOFILE=1\n")
    assert not is_as_written(units.template(SERVICE, user=False))
    assert not is_as_written("")


def test_only_what_nobody_edited_is_older() -> None:
    path, ours = Path("/x"), unit(SERVICE, PROGRAM, user=False)
    of_another = unit(SERVICE, Path("/opt/moe-proxy"), user=False)

    assert change(path, None, ours).state == "new"
    assert change(path, ours, ours).state == "same"
    assert change(path, of_another, ours).state == "older"
    assert change(path, "", ours).state == "edited"
    assert change(path, ours.replace("Restart=", "#"), ours).state == "edited"


def test_a_diff_shows_what_would_go() -> None:
    ours = unit(SERVICE, PROGRAM, user=False)
    edited = ours.replace("WatchdogSec=60", "WatchdogSec=10")

    shown = change(Path("/x"), edited, ours).diff().splitlines()

    assert "-WatchdogSec=10" in shown
    assert "+WatchdogSec=60" in shown


def test_home_folders_are_hidden_from_the_system_service() -> None:
    needed = {
        "the command": Path("/home/me/bin/x"),
        "its Python": Path("/usr"),
        "it": Path("/homer"),
    }

    assert hidden_from_service(needed) == ["the command (/home/me/bin/x)"]
    assert hidden_from_service({"it": Path("/opt/moe-proxy")}) == []
