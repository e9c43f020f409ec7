"""Measured curves on disk: <catalog.state>/bench/<key>.json, one for each model, set of devices and
engine.

What was measured with another card or another llama.cpp says nothing about this one, so it is not
found.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog

from proxy.catalog.gguf import GgufError
from proxy.catalog.parts import parts_of
from proxy.control.speed_curve import Curve, best_share
from proxy.engine.types import Device
from proxy.files import BadJson, decode_json, open_regular, read_small

log = structlog.get_logger()

# Metadata and the beginning of the vocabulary: two quantisations of a model differ in it, or in
# their size.
HEAD_BYTES = 64 << 10
MAX_CURVE_BYTES = 1 << 20


def model_id(path: Path) -> str:
    """The identity of a model's file, that a move or another name does not change.

    Raises OSError, and GgufError where parts of a split model are missing.
    """
    files = parts_of(path)
    with open_regular(files[0]) as file:
        head = file.read(HEAD_BYTES)
    size = sum(part.stat().st_size for part in files)
    return hashlib.sha256(f"{size}:".encode() + head).hexdigest()[:16]


def device_ids(devices: Iterable[Device]) -> tuple[str, ...]:
    """The devices that can hold experts, by name and model."""
    return tuple(sorted(f"{d.name} {d.description}" for d in devices if d.kind != "cpu"))


def engine_id(libdir: Path | None = None, backends: Iterable[Path] = ()) -> str:
    """The llama.cpp in use: llama-cpp-python's version, or the folder that has another build, and
    the `backends` from elsewhere."""
    return " with ".join((_llama_cpp(libdir), *map(str, backends)))


def _llama_cpp(libdir: Path | None) -> str:
    if libdir is not None:
        return " ".join((f"llama.cpp in {libdir}", *_builds(libdir)))
    from importlib.metadata import PackageNotFoundError, version  # of 1.2 MiB, for this only

    try:
        return f"llama-cpp-python {version('llama-cpp-python')}"
    except PackageNotFoundError:
        return "unknown"


def _builds(libdir: Path) -> Iterator[str]:
    """What tells a build from one that is put into its folder later. Asks the disk."""
    for name in ("libllama.so", "libggml-base.so"):
        with suppress(OSError):
            found = (libdir / name).stat()
            yield f"{found.st_size}@{int(found.st_mtime)}"


def file_of(state: Path, model: str, devices: Iterable[str], engine: str) -> Path:
    """Where the curve of a model (by `model_id`) on these devices is kept."""
    setting = hashlib.sha256("\n".join([*devices, engine]).encode()).hexdigest()[:8]
    return state / "bench" / f"{model}-{setting}.json"


def save(state: Path, curve: Curve) -> Path:
    """Keep a curve in the place of an earlier one, whole or not at all. Raises OSError."""
    path = file_of(state, curve.model_id, curve.devices, curve.engine)
    write_whole(path, curve)
    return path


def write_whole(path: Path, what: object) -> None:
    """Write it as JSON, whole or not at all. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(what)) + b"\n")
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def load(path: Path) -> Curve | None:
    """A stored curve; None where there is none that can be read."""
    try:
        curve: Curve = decode_json(read_small(path, MAX_CURVE_BYTES), Curve, "no curve")
    except FileNotFoundError:
        return None
    except (OSError, BadJson) as error:
        log.warning("curve_not_read", file=str(path), error=str(error))
        return None
    return curve


def measured_share(
    state: Path,
    model_path: Path,
    devices: Iterable[Device],
    *,
    libdir: Path | None = None,
    backends: Iterable[Path] = (),
) -> float:
    """What of the experts' room an expert cache is best given, as measured; 0: nothing, or it was
    not measured. Before any worker has told of its devices (`devices` is empty), it is what was
    measured with this engine, if that was on one set of devices only."""
    try:
        model = model_id(model_path)
    except (OSError, GgufError):
        return 0.0
    engine, known = engine_id(libdir, backends), device_ids(devices)
    files = [file_of(state, model, known, engine)]
    if not known:
        found = (state / "bench").glob(f"{model}-*.json")
        files = [file for file in found if not file.stem.endswith(".use")]
    curves = [curve for file in files if (curve := load(file)) and curve.engine == engine]
    return best_share(curves[0]) if len(curves) == 1 else 0.0
