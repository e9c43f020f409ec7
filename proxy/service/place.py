"""Where a service lives, for the machine or for one user, and what systemctl is to do there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from proxy.service.units import SERVICE, SOCKET


@dataclass(frozen=True, slots=True)
class Place:
    """`root`: a system that is not running, such as an image that is being made; None: this one."""

    user: bool
    root: Path | None
    units: Path
    policies: Path
    state: str

    @property
    def options(self) -> tuple[str, ...]:
        """What systemctl and journalctl are told of it."""
        if self.root is not None:
            return (f"--root={self.root}",)
        return ("--user",) if self.user else ()

    def systemctl(self, *arguments: str) -> list[str]:
        return ["systemctl", *self.options, *arguments]


def place_of(*, user: bool, root: Path | None, env: Mapping[str, str]) -> Place:
    home = Path(env.get("HOME") or Path.home())
    if user:
        config = Path(env.get("XDG_CONFIG_HOME") or home / ".config")
        policies = config / "moe-proxy"
        return Place(True, None, config / "systemd" / "user", policies, "your home folder")
    base = root or Path("/")
    policies = base / "etc" / "moe-proxy"
    return Place(False, root, base / "etc/systemd/system", policies, "/var/lib/moe-proxy")


def to_install(place: Place, names: Sequence[str], *, port_is_kept: bool) -> list[list[str]]:
    """What has units be known, started, and started with the machine. Nothing of it does harm where
    that is so already. `port_is_kept`: by a socket unit that is active."""
    if place.root is not None:
        return [place.systemctl("enable", *names)]
    calls = [place.systemctl("daemon-reload")]
    if SOCKET in names and not port_is_kept:
        # A proxy that listens by itself is in the way of its socket unit.
        calls.append(place.systemctl("stop", SERVICE))
    # The port before who is to get it.
    return calls + [place.systemctl("enable", "--now", name) for name in sorted(names)[::-1]]


def to_uninstall(place: Place, names: Sequence[str]) -> list[list[str]]:
    """What ends them; to be done before their files are removed. The port goes first: otherwise the
    next client would start the proxy again."""
    now = () if place.root is not None else ("--now",)
    return [place.systemctl("disable", *now, name) for name in sorted(names)[::-1]]
