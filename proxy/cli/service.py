"""The commands `install-service` and `uninstall-service`."""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path

from proxy.cli import output
from proxy.cli.output import FAILED, MISUSED, OK, say
from proxy.errors import reason_of
from proxy.service import units
from proxy.service.place import Place, place_of, to_install, to_uninstall
from proxy.service.units import SERVICE, SOCKET, Change

# Longer than a start or a stop may take, by the units.
SYSTEMCTL_S = 180.0
FOLDER_MODE, UNIT_MODE = 0o755, 0o644


def install(arguments: Namespace) -> int:
    place = _place(arguments)
    program = Path(sysconfig.get_path("scripts")) / "moe-proxy"
    if why := _cannot_start(program, place):
        output.error(why)
        return MISUSED
    names = (SERVICE, SOCKET) if arguments.socket else (SERVICE,)
    try:
        changes = [_change(place.units / name, program, place) for name in names]
        if _edited(changes) and not arguments.force:
            return _refuse(changes)
        if arguments.dry_run:
            _show(changes, to_install(place, names, port_is_kept=False))
            return OK
        place.policies.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        for change in changes:
            _write(change)
    except OSError as error:
        return _not_written(error, program, place, "install-service")
    port_is_kept = arguments.socket and _is_active(place, SOCKET)
    status = _run_all(to_install(place, names, port_is_kept=port_is_kept))
    _tell(place, changes, port_is_kept=arguments.socket)
    return status


def uninstall(arguments: Namespace) -> int:
    place = _place(arguments)
    program = Path(sysconfig.get_path("scripts")) / "moe-proxy"
    try:
        found = {
            path: path.read_text(errors="replace")
            for path in (place.units / SERVICE, place.units / SOCKET)
            if path.exists()
        }
        if not found:
            output.info(f"no service is installed in {place.units}")
            return OK
        edited = [path for path, text in found.items() if not units.is_as_written(text)]
        if edited and not arguments.force:
            output.error(f"{_listed(edited)} was edited; --force removes it")
            return FAILED
        calls = to_uninstall(place, [path.name for path in found])
        if arguments.dry_run:
            _print_calls(calls)
            say("\n".join(f"would remove {path}" for path in found))
            return OK
        if status := _run_all(calls):
            output.error("nothing was removed; --root / does without a running systemd")
            return status
        for path in found:
            path.unlink()
    except OSError as error:
        return _not_written(error, program, place, "uninstall-service")
    if place.root is None:
        _run_all([place.systemctl("daemon-reload")])
    say(f"removed {_listed(found)}\nleft as they are: {place.policies}, {place.state}")
    return OK


def _place(arguments: Namespace) -> Place:
    return place_of(user=arguments.user, root=arguments.root, env=os.environ)


def _cannot_start(program: Path, place: Place) -> str | None:
    """Why a service could not start this installation."""
    if not os.access(program, os.X_OK):
        return f"{program} is not there, which the service would start"
    needed = {
        "the command": program,
        "its Python": Path(sys.base_prefix),
        "its package": Path(__file__).resolve(),
    }
    hidden = [] if place.user else units.hidden_from_service(needed)
    if hidden:
        return (
            f"the system's service cannot see {', '.join(hidden)}: it has no home folders and a "
            "/tmp of its own.\nInstall a copy for it, with a Python of the system: "
            "make install PREFIX=/opt/moe-proxy PYTHON=/usr/bin/python3\n"
            "or have a service of your own: moe-proxy install-service --user"
        )
    return None


def _change(path: Path, program: Path, place: Place) -> Change:
    before = path.read_text(errors="replace") if path.exists() else None
    return units.change(path, before, units.unit(path.name, program, user=place.user))


def _edited(changes: Sequence[Change]) -> list[Change]:
    return [change for change in changes if change.state == "edited"]


def _refuse(changes: Sequence[Change]) -> int:
    for change in _edited(changes):
        say(change.diff())
    output.error(
        f"{_listed(change.path for change in _edited(changes))} was edited, and nothing was "
        "written; --force replaces it.\nWhat is yours is kept in a file beside it: "
        f"systemctl edit {SERVICE}"
    )
    return FAILED


def _show(changes: Sequence[Change], calls: Sequence[Sequence[str]]) -> None:
    for change in changes:
        if change.state == "same":
            say(f"{change.path} is as it should be")
        else:
            text = change.diff() if change.before else change.after
            say(f"would write {change.path}:\n{text}")
    _print_calls(calls)


def _print_calls(calls: Sequence[Sequence[str]]) -> None:
    for call in calls:
        say(f"would run {shlex.join(call)}")


def _write(change: Change) -> None:
    """Whole, or not at all."""
    if change.state == "same":
        say(f"{change.path} is as it should be")
        return
    change.path.parent.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
    new = change.path.with_name(f".{change.path.name}.new")
    new.write_text(change.after)
    new.chmod(UNIT_MODE)
    new.replace(change.path)
    say(f"wrote {change.path}")


def _not_written(error: OSError, program: Path, place: Place, command: str) -> int:
    hint = ""
    if isinstance(error, PermissionError) and not place.user:
        hint = f"; try sudo {program} {command}, or --user for a service of your own"
    output.error(f"{error.filename}: {reason_of(error)}{hint}")
    return FAILED


def _is_active(place: Place, name: str) -> bool:
    if place.root is not None or not shutil.which("systemctl"):
        return False
    call = place.systemctl("is-active", "--quiet", name)
    try:
        return subprocess.run(call, check=False, timeout=SYSTEMCTL_S).returncode == 0
    except subprocess.TimeoutExpired:
        return False  # what is called next says so


def _run_all(calls: Sequence[Sequence[str]]) -> int:
    """Run them up to the first that fails, or say them where there is no systemctl."""
    if not shutil.which("systemctl"):
        output.info("there is no systemctl here; where there is one, run:")
        output.info("\n".join(f"  {shlex.join(call)}" for call in calls))
        return OK
    for number, call in enumerate(calls):
        try:
            done = subprocess.run(
                call, check=False, stderr=subprocess.PIPE, text=True, timeout=SYSTEMCTL_S
            )
        except subprocess.TimeoutExpired:
            why = f"took longer than {SYSTEMCTL_S:.0f} s"
        else:
            if done.returncode == 0:
                continue
            why = f"failed: {done.stderr.strip() or f'exit status {done.returncode}'}"
        output.error(f"{shlex.join(call)} {why}")
        if rest := calls[number + 1 :]:
            output.info("not done:\n" + "\n".join(f"  {shlex.join(each)}" for each in rest))
        return FAILED
    return OK


def _tell(place: Place, changes: Sequence[Change], *, port_is_kept: bool) -> None:
    manager = "--user " if place.user else ""
    say(f"policies: {place.policies}/*.toml; a saved one counts at once")
    say(f"log:      journalctl {manager}-u {SERVICE} -f")
    say(f"settings: systemctl {manager}edit {SERVICE}")
    if port_is_kept:
        say(f"address:  systemctl {manager}edit {SOCKET}; server.host and server.port do not count")
    if any(change.state in ("older", "edited") for change in changes):
        say(f"what has changed counts after: systemctl {manager}restart {SERVICE}")
    if place.user:
        say("it ends when you log out, but after: loginctl enable-linger")


def _listed(paths: Iterable[Path]) -> str:
    return ", ".join(map(str, paths))
