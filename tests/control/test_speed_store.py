"""Curves on disk."""

from dataclasses import replace
from pathlib import Path

from proxy.control.speed_curve import CachePoint, Curve
from proxy.control.speed_store import (
    engine_id,
    file_of,
    load,
    measured_share,
    save,
)
from tests.control.conftest import CARD, HOST
from tests.support.models import model


def test_what_was_saved_is_loaded(curve: Curve, tmp_path: Path) -> None:
    path = save(tmp_path, curve)

    assert load(path) == curve
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_newest_takes_the_place_of_the_one_before(curve: Curve, tmp_path: Path) -> None:
    save(tmp_path, curve)
    save(tmp_path, replace(curve, points=curve.points[:1]))

    path = file_of(tmp_path, curve.model_id, curve.devices, curve.engine)
    stored = load(path)
    assert stored is not None
    assert len(stored.points) == 1


def with_caches(curve: Curve, *speeds: tuple[float, float]) -> Curve:
    caches = tuple(CachePoint(share, 1 << 30, 6, speed, 100.0) for share, speed in speeds)
    return replace(curve, caches=caches)


def test_the_share_of_a_cache_is_the_measured_best(curve: Curve, tmp_path: Path) -> None:
    save(tmp_path, with_caches(curve, (1.0, 120.0), (0.5, 95.0)))

    assert measured_share(tmp_path, model(), [HOST, CARD]) == 1.0
    assert measured_share(tmp_path, model(layers=4), [CARD]) == 0.0
    assert measured_share(tmp_path, model(), [replace(CARD, description="another")]) == 0.0
    assert measured_share(tmp_path, model(), [CARD], libdir=Path("/elsewhere")) == 0.0


def test_before_devices_are_known_the_only_measurement_counts(curve: Curve, tmp_path: Path) -> None:
    """Of two sets of devices nobody knows which one is there."""
    path = save(tmp_path, with_caches(curve, (0.5, 120.0)))
    # Beside it is what was learned from use.
    path.with_suffix(".use.json").write_text(path.read_text())
    assert measured_share(tmp_path, model(), ()) == 0.5
    save(tmp_path, replace(with_caches(curve, (1.0, 120.0)), engine="another"))
    assert measured_share(tmp_path, model(), ()) == 0.5
    save(tmp_path, replace(with_caches(curve, (1.0, 120.0)), devices=("CUDA0 another",)))
    assert measured_share(tmp_path, model(), ()) == 0.0


def test_a_curve_from_before_there_were_caches_is_read(curve: Curve, tmp_path: Path) -> None:
    path = save(tmp_path, curve)
    path.write_text(path.read_text().replace('"caches": []', '"more": 1'))

    assert load(path) == curve


def test_another_build_in_the_same_folder_is_another_engine(tmp_path: Path) -> None:
    library = tmp_path / "libllama.so"
    library.write_bytes(b"one")
    before = engine_id(tmp_path)
    assert engine_id(tmp_path) == before

    library.write_bytes(b"another")
    assert engine_id(tmp_path) != before
