"""Where a service lives, and in which order systemctl does what."""

from pathlib import Path

from proxy.service.place import place_of, to_install, to_uninstall
from proxy.service.units import SERVICE, SOCKET

ENV = {"HOME": "/home/me"}
MACHINE = place_of(user=False, root=None, env=ENV)
USER = place_of(user=True, root=None, env=ENV)
IMAGE = place_of(user=False, root=Path("/mnt"), env=ENV)


def test_units_and_policies_are_where_systemd_and_the_proxy_look() -> None:
    assert (MACHINE.units, MACHINE.policies) == (
        Path("/etc/systemd/system"),
        Path("/etc/moe-proxy"),
    )
    assert USER.units == Path("/home/me/.config/systemd/user")
    assert USER.policies == Path("/home/me/.config/moe-proxy")
    assert IMAGE.units == Path("/mnt/etc/systemd/system")
    elsewhere = place_of(user=True, root=None, env=ENV | {"XDG_CONFIG_HOME": "/c"})
    assert elsewhere.units == Path("/c/systemd/user")


def test_systemd_reads_units_before_it_starts_them() -> None:
    assert to_install(MACHINE, [SERVICE], port_is_kept=False) == [
        ["systemctl", "daemon-reload"],
        ["systemctl", "enable", "--now", SERVICE],
    ]
    assert to_install(USER, [SERVICE], port_is_kept=False)[0] == [
        "systemctl",
        "--user",
        "daemon-reload",
    ]


def test_a_proxy_that_has_the_port_gives_it_to_the_socket_unit_once() -> None:
    first = to_install(MACHINE, [SERVICE, SOCKET], port_is_kept=False)
    again = to_install(MACHINE, [SERVICE, SOCKET], port_is_kept=True)

    assert [call[1:] for call in first] == [
        ["daemon-reload"],
        ["stop", SERVICE],
        ["enable", "--now", SOCKET],
        ["enable", "--now", SERVICE],
    ]
    assert [call for call in first if "stop" not in call] == again


def test_nothing_is_started_in_a_system_that_does_not_run() -> None:
    assert to_install(IMAGE, [SERVICE, SOCKET], port_is_kept=False) == [
        ["systemctl", "--root=/mnt", "enable", SERVICE, SOCKET]
    ]
    assert ["systemctl", "--root=/mnt", "disable", SERVICE] in to_uninstall(IMAGE, [SERVICE])


def test_the_port_ends_before_what_it_would_start() -> None:
    assert [call[-1] for call in to_uninstall(MACHINE, [SERVICE, SOCKET])] == [SOCKET, SERVICE]
