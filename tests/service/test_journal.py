"""Who writes to the journal is told by systemd which file that is."""

import os
from pathlib import Path

from proxy.service.journal import goes_to_journal


def test_only_what_goes_where_systemd_says(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w") as file, (tmp_path / "b").open("w") as other:
        status = os.fstat(file.fileno())
        env = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}

        assert goes_to_journal(file.fileno(), env)
        # As where a shell of the unit has sent it elsewhere.
        assert not goes_to_journal(other.fileno(), env)
        assert not goes_to_journal(file.fileno(), {})
    assert not goes_to_journal(file.fileno() if not file.closed else 10_000, env)
