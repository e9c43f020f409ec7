"""Writes our own store; `proxy.catalog.store` reads it. Everything here blocks."""

import contextlib
import hashlib
import os
import tempfile
import time
from pathlib import Path
from typing import Final

import structlog

from proxy.catalog import manifest as media
from proxy.catalog.manifest import BadManifest, Layer, Manifest, digest_of, hex_of, parse_manifest
from proxy.catalog.reference import Reference, from_manifest_path
from proxy.catalog.store import MAX_MANIFEST_BYTES, Store
from proxy.errors import reason_of
from proxy.files import open_regular, read_small

log = structlog.get_logger()

CHUNK_BYTES: Final = 1 << 20


class Writer:
    """One store that is ours."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @property
    def blobs(self) -> Path:
        return self.store.root / "blobs"

    def add(self, data: bytes, media_type: str) -> tuple[Layer, bool]:
        """Keep `data` as a blob; its layer, and whether it is new."""
        layer = Layer(media_type, digest_of(data), len(data))
        path = self.store.blob(layer.digest)
        if path.exists():
            return layer, False
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(path, data)
        return layer, True

    def adopt(self, file: Path, media_type: str, digest: str | None = None) -> tuple[Layer, bool]:
        """Make a file from elsewhere a blob without a copy; the layer, and whether it is new.

        A hard link where the file system allows: then the blob stays when the file goes.
        """
        size = file.stat().st_size
        digest = digest or digest_of_file(file)
        layer = Layer(media_type, digest, size)
        path = self.store.blob(digest)
        if path.exists():
            return layer, False
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        try:
            os.link(file.resolve(), path)
        except OSError:
            path.symlink_to(file.resolve())
        return layer, True

    def temporary(self) -> Path:
        """A new file beside the blobs, which the caller moves or removes."""
        self.blobs.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".new-", dir=self.blobs)
        os.close(handle)
        return Path(name)

    def write_manifest(self, reference: Reference, data: bytes) -> None:
        """Give the model its name, at once and as a whole; the blobs are there already."""
        manifest = parse_manifest(data)
        if manifest.of_type(media.MODEL):
            self.link_parts(manifest)
        path = self.store.manifest_path(reference)
        old = self._try_read(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(path, data)
        if old:
            self.remove_unused(old)

    def remove(self, reference: Reference) -> None:
        """Forget a model, and remove what no other one needs. Raises FileNotFoundError."""
        path = self.store.manifest_path(reference)
        manifest = self._try_read(path)
        path.unlink()
        for folder in list(path.parents)[:3]:
            with contextlib.suppress(OSError):
                folder.rmdir()
        if manifest:
            self.remove_unused(manifest)

    def sweep(self, older_than_s: float) -> None:
        """Remove what has lain about for long: parts of pulls, and blobs that no model needs. What
        cannot be removed is told, and stays."""
        used = self._used()
        for name in os.listdir(self.blobs) if os.path.isdir(self.blobs) else ():
            file = self.blobs / name
            try:
                age_s = time.time() - file.lstat().st_mtime
                if age_s > older_than_s and name.removeprefix("sha256-") not in used:
                    file.unlink(missing_ok=True)
            except OSError as error:
                log.warning("not_removed", file=str(file), reason=reason_of(error))

    def spelled(self, reference: Reference) -> Reference:
        """The name as a model that is there writes it, if only the case of letters differs."""
        for path in self.store.manifest_paths({}):
            with contextlib.suppress(ValueError):
                known = from_manifest_path(path)
                if known.folded == reference.folded:
                    return known
        return reference

    def link_parts(self, manifest: Manifest) -> Path:
        """The model's (first) file; parts of a split one get the names by which they are found."""
        layers = manifest.of_type(media.MODEL)
        if len(layers) < 2 or not all(layer.name for layer in layers):
            return self.store.blob(layers[-1].digest)
        folder = self.store.parts_folder(layers[0])
        folder.mkdir(parents=True, exist_ok=True)
        for layer in layers:
            link = folder / layer.name
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.relpath(self.store.blob(layer.digest), folder))
        return folder / layers[0].name

    def remove_unused(self, manifest: Manifest) -> None:
        """Remove those blobs of a manifest that no model needs."""
        used = self._used()
        for layer in manifest.all_layers():
            if hex_of(layer.digest) in used:
                continue
            self.store.blob(layer.digest).unlink(missing_ok=True)
            folder = self.store.parts_folder(layer)
            if folder.is_dir():
                for link in folder.iterdir():
                    link.unlink()
                folder.rmdir()

    def _used(self) -> set[str]:
        """The digits of all blobs that models need."""
        return {
            hex_of(layer.digest)
            for inner in self.store.manifest_paths({})
            if (manifest := self._try_read(self.store.manifests / inner))
            for layer in manifest.all_layers()
        }

    def _try_read(self, path: Path) -> Manifest | None:
        try:
            return parse_manifest(read_small(path, MAX_MANIFEST_BYTES))
        except (OSError, BadManifest):
            return None


def digest_of_file(file: Path) -> str:
    """The digest of a file's content; for a large one this takes as long as reading it."""
    with open_regular(file) as data:
        return f"sha256:{hashlib.file_digest(data, 'sha256').hexdigest()}"


def _write_whole(path: Path, data: bytes) -> None:
    """Write a file that nobody ever sees half written."""
    handle, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
