"""install-service and uninstall-service, with a systemctl that only keeps what it is told, and with
the real one where no systemd has to run."""

import os
import shutil
from pathlib import Path

import pytest

from proxy.cli.main import main
from proxy.service import units
from proxy.service.units import SERVICE, SOCKET

# It fails where its first plain argument is a line of the file `fails`.
SYSTEMCTL = """#!/bin/sh
echo "$*" >> "$0.calls"
for word in "$@"; do
  if grep -qx -- "$word" "$0.fails" 2>/dev/null; then echo "$word does not work" >&2; exit 1; fi
done
"""


class Machine:
    """A home folder, a root folder and a systemctl of its own."""

    def __init__(self, folder: Path) -> None:
        self.home, self.root = folder / "home", folder / "root"
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.systemctl = self.bin / "systemctl"
        self.systemctl.write_text(SYSTEMCTL)
        self.systemctl.chmod(0o755)
        self.fails()  # nothing, but that no socket unit is active

    def fails(self, *words: str) -> None:
        (self.bin / "systemctl.fails").write_text("\n".join(("is-active", *words)) + "\n")

    def port_is_kept(self) -> None:
        (self.bin / "systemctl.fails").unlink()

    def calls(self) -> list[str]:
        """What systemctl was told to do since this was asked last."""
        file = self.bin / "systemctl.calls"
        told = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return [line for line in told if "is-active" not in line]

    def unit(self, name: str = SERVICE) -> Path:
        return self.home / ".config" / "systemd" / "user" / name


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    one = Machine(tmp_path)
    monkeypatch.setenv("HOME", str(one.home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("PATH", f"{one.bin}{os.pathsep}{os.environ['PATH']}")
    return one


@pytest.fixture
def not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this clone lay where the system's service can see it."""
    monkeypatch.setattr(units, "HIDDEN", ())


def test_a_users_service_is_written_and_started(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["install-service", "--user"]) == 0

    assert machine.calls() == ["--user daemon-reload", f"--user enable --now {SERVICE}"]
    text = machine.unit().read_text()
    (start,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    program = Path(start.removeprefix("ExecStart=").split()[0])
    assert os.access(program, os.X_OK)
    assert machine.unit().stat().st_mode & 0o777 == 0o644
    assert not machine.unit(SOCKET).exists()
    said = capsys.readouterr().out
    assert f"policies: {machine.home}/.config/moe-proxy/*.toml" in said
    assert (machine.home / ".config" / "moe-proxy").is_dir()
    assert f"journalctl --user -u {SERVICE} -f" in said
    assert "loginctl enable-linger" in said


def test_to_install_again_changes_nothing(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["install-service", "--user", "--socket"])
    first = machine.calls()
    before = {name: machine.unit(name).stat().st_mtime_ns for name in (SERVICE, SOCKET)}
    machine.port_is_kept()
    capsys.readouterr()

    assert main(["install-service", "--user", "--socket"]) == 0

    assert f"--user stop {SERVICE}" in first
    assert machine.calls() == [call for call in first if " stop " not in call]
    assert before == {name: machine.unit(name).stat().st_mtime_ns for name in (SERVICE, SOCKET)}
    said = capsys.readouterr().out
    assert said.count("is as it should be") == 2
    assert "restart" not in said


def test_a_unit_of_another_installation_is_replaced(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.unit().parent.mkdir(parents=True)
    machine.unit().write_text(units.unit(SERVICE, Path("/old/bin/moe-proxy"), user=True))

    assert main(["install-service", "--user"]) == 0

    assert "/old/" not in machine.unit().read_text()
    assert f"counts after: systemctl --user restart {SERVICE}" in capsys.readouterr().out


def test_an_edited_unit_is_replaced_only_by_force(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["install-service", "--user"])
    edited = machine.unit().read_text().replace("WatchdogSec=60", "WatchdogSec=7")
    machine.unit().write_text(edited)
    machine.calls()

    assert main(["install-service", "--user", "--socket"]) == 1

    said = capsys.readouterr()
    assert "-WatchdogSec=7\n+WatchdogSec=60" in said.out
    assert "--force replaces it" in said.err
    assert machine.unit().read_text() == edited
    assert not machine.unit(SOCKET).exists(), "all or nothing"
    assert machine.calls() == []
    assert main(["install-service", "--user", "--force"]) == 0
    assert "WatchdogSec=60" in machine.unit().read_text()


def test_a_dry_run_does_nothing(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install-service", "--user", "--socket", "--dry-run"]) == 0

    said = capsys.readouterr().out
    assert f"would write {machine.unit()}:\n" in said
    assert "ListenStream=127.0.0.1:11434" in said
    assert f"would run systemctl --user enable --now {SERVICE}" in said
    assert not machine.home.exists()
    assert machine.calls() == []


def test_without_systemctl_the_commands_are_told(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    assert main(["install-service", "--user"]) == 0

    assert machine.unit().exists()
    assert f"  systemctl --user enable --now {SERVICE}" in capsys.readouterr().err


def test_what_systemctl_says_is_told_with_what_was_not_done(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.fails("daemon-reload")

    assert main(["install-service", "--user"]) == 1

    said = capsys.readouterr().err
    assert "systemctl --user daemon-reload failed: daemon-reload does not work" in said
    assert f"not done:\n  systemctl --user enable --now {SERVICE}" in said


def test_who_may_not_write_is_told_how(
    machine: Machine, not_hidden: None, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.root.write_text("no folder")

    assert main(["install-service", "--root", str(machine.root)]) == 1

    assert f"{machine.root}/etc" in capsys.readouterr().err
    assert machine.calls() == []


def test_an_installation_that_the_service_cannot_see_is_refused(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(units, "HIDDEN", (str(Path(__file__).parents[2]),))

    assert main(["install-service", "--root", str(machine.root)]) == 2

    said = capsys.readouterr().err
    assert "the system's service cannot see" in said
    assert "make install PREFIX=/opt/moe-proxy" in said
    assert not machine.root.exists()


def test_uninstall_undoes_it_and_leaves_what_is_yours(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["install-service", "--user", "--socket"])
    policy = machine.home / ".config" / "moe-proxy" / "mine.toml"
    policy.write_text("")
    machine.calls()

    assert main(["uninstall-service", "--user", "--dry-run"]) == 0
    assert machine.unit().exists()
    assert machine.calls() == []

    assert main(["uninstall-service", "--user"]) == 0
    assert machine.calls() == [
        f"--user disable --now {SOCKET}",
        f"--user disable --now {SERVICE}",
        "--user daemon-reload",
    ]
    assert not machine.unit().exists()
    assert not machine.unit(SOCKET).exists()
    assert policy.exists()

    assert main(["uninstall-service", "--user"]) == 0
    assert "no service is installed" in capsys.readouterr().err
    assert machine.calls() == []


def test_uninstall_keeps_what_it_could_not_stop_and_what_was_edited(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["install-service", "--user"])
    machine.fails("disable")
    assert main(["uninstall-service", "--user"]) == 1
    assert machine.unit().exists()

    machine.fails()
    machine.calls()
    machine.unit().write_text(machine.unit().read_text() + "# mine\n")
    assert main(["uninstall-service", "--user"]) == 1
    assert "--force removes it" in capsys.readouterr().err
    assert machine.calls() == []
    assert main(["uninstall-service", "--user", "--force"]) == 0
    assert not machine.unit().exists()


@pytest.mark.skipif(
    shutil.which("systemctl") is None, reason="there is no systemctl (apt install systemd)"
)
def test_the_real_systemctl_takes_the_units_into_an_image(
    tmp_path: Path, not_hidden: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """It only makes links there: no systemd has to run, and none is asked."""
    root = tmp_path / "image"

    assert main(["install-service", "--socket", "--root", str(root)]) == 0

    folder = root / "etc" / "systemd" / "system"
    assert (folder / "multi-user.target.wants" / SERVICE).is_symlink()
    assert (folder / "sockets.target.wants" / SOCKET).is_symlink()
    assert main(["uninstall-service", "--root", str(root)]) == 0
    assert [path for path in folder.rglob("*") if not path.is_dir()] == []
