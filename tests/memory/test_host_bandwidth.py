"""How fast main memory is read, on this machine."""

from pathlib import Path

import pytest

from proxy.memory import host_bandwidth as measured
from proxy.memory.host_bandwidth import host_bandwidth, last_level_bytes


def test_it_is_between_what_any_machine_and_what_none_can() -> None:
    rate = host_bandwidth(1)

    assert rate is not None
    assert 1e8 < rate < 1e12


def test_a_machine_short_of_memory_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "available_host_bytes", lambda: 200 << 20)

    assert host_bandwidth(1) is None


def test_a_cache_that_processors_share_counts_once(tmp_path: Path) -> None:
    for cpu, sharing in enumerate(["0-1", "0-1", "2", "?"]):
        folder = tmp_path / f"cpu{cpu}/cache/index3"
        folder.mkdir(parents=True)
        (folder / "shared_cpu_list").write_text(f"{sharing}\n")
        (folder / "size").write_text("32768K\n" if sharing != "?" else "large\n")

    assert last_level_bytes(tmp_path) == 64 << 20
    assert last_level_bytes(tmp_path / "none") == 0
