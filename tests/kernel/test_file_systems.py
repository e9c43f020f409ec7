"""Which file systems tell, with those of this machine."""

from pathlib import Path

from proxy.kernel.file_systems import tells


def test_some_file_systems_do_not_tell_of_each_change(tmp_path: Path) -> None:
    assert tells(tmp_path)
    assert not tells(Path("/proc"))
    assert not tells(tmp_path / "nowhere")
