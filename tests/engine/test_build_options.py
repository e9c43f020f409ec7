"""Which options a build has is seen without running it."""

from pathlib import Path

from proxy.engine.build_options import LIBRARY, has_expert_cache
from tests.support.cache_build import cache_build


def test_a_build_with_an_expert_cache_is_known_by_its_text() -> None:
    assert has_expert_cache(cache_build())
    assert not has_expert_cache(None), "llama-cpp-python's has one now: try the real thing"


def test_what_is_no_build_has_none(tmp_path: Path) -> None:
    assert not has_expert_cache(tmp_path)
    (tmp_path / LIBRARY).write_bytes(b"")
    assert not has_expert_cache(tmp_path)


def test_another_library_in_its_place_is_looked_at_anew(tmp_path: Path) -> None:
    file = tmp_path / LIBRARY
    file.write_bytes(b"--moe-cache-mib-more\0--no-such\0")
    assert not has_expert_cache(tmp_path)
    file.write_bytes(b"--moe-cache-mib\0 and some more")
    assert has_expert_cache(tmp_path)
