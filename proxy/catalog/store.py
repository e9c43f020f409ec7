"""Reads models from a store in Ollama's layout: manifests by name, blobs by digest.

Ollama's own store and ours are read by the same code. Only `proxy.hub.writer` writes, only ours.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Final, Literal

from proxy.catalog import manifest as media
from proxy.catalog.cache import CacheEntry
from proxy.catalog.contents import Contents
from proxy.catalog.entry import Entry, inodes_of
from proxy.catalog.manifest import Layer, Manifest, hex_of, parse_manifest
from proxy.catalog.reference import Reference, from_manifest_path
from proxy.catalog.templates import kind_of
from proxy.files import is_regular, read_small, shown

# Manifests are read whole; nothing real comes near.
MAX_MANIFEST_BYTES: Final = 4 << 20
LONGEST: Final = 1000  # characters of what a model was made from


class Store:
    """One store. A scan reads what is new; an unchanged manifest costs a `stat`."""

    def __init__(self, root: Path, source: Literal["own", "ollama"]) -> None:
        self.root = root
        self.source = source
        # What changes: what was read, by the manifest's path below `manifests`. May be set to what
        # an earlier process read.
        self.cache: Mapping[str, CacheEntry] = {}
        self.changed = False  # by the last scan

    @property
    def manifests(self) -> Path:
        return self.root / "manifests"

    def blob(self, digest: str) -> Path:
        """Where the blob lies, if it is there. Raises BadManifest for what is no digest."""
        return self.root / "blobs" / f"sha256-{hex_of(digest)}"

    def parts_folder(self, first: Layer) -> Path:
        """The folder where the parts of a split model have the names that llama.cpp wants."""
        return self.root / "parts" / hex_of(first.digest)

    def manifest_path(self, reference: Reference) -> Path:
        return self.manifests / reference.path

    def scan(self, problems: dict[str, str]) -> list[tuple[Reference, Entry]]:
        """All models; what cannot be read is put into `problems`, by its path."""
        cache: dict[str, CacheEntry] = {}
        for path, file in self._walk(problems):
            try:
                cache[path] = self._read(path, file)
            except (OSError, ValueError, RecursionError) as error:
                # Whatever is wrong with one model is no reason to have none.
                problems[shown(file.path)] = shown(str(error))
        self.changed = cache.keys() != self.cache.keys() or any(
            found is not self.cache[path] for path, found in cache.items()
        )
        self.cache = cache
        return [(found.reference, found.entry) for found in cache.values()]

    def read(self, reference: Reference) -> Manifest:
        """The manifest of a model. Raises FileNotFoundError, BadManifest."""
        return parse_manifest(read_small(self.manifest_path(reference), MAX_MANIFEST_BYTES))

    def manifest_paths(self, problems: dict[str, str]) -> Iterator[PurePosixPath]:
        """Where manifests lie, below `manifests`."""
        return (PurePosixPath(path) for path, _ in self._walk(problems))

    def _walk(self, problems: dict[str, str]) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Every file that is four levels below `manifests`, with its path from there."""
        pending = [("", os.fspath(self.manifests))]
        seen: set[tuple[int, int]] = set()
        while pending:
            inner, folder = pending.pop()
            try:
                status = os.stat(folder)
                with os.scandir(folder) as found:
                    below = sorted(found, key=lambda entry: entry.name)
            except OSError as error:
                if not isinstance(error, FileNotFoundError):
                    problems[shown(folder)] = error.strerror or str(error)
                continue
            # Links are followed, but not in circles.
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            for entry in below:
                path = f"{inner}/{entry.name}" if inner else entry.name
                if path.count("/") == 3:
                    if not entry.name.startswith("."):
                        yield path, entry
                elif _is_folder(entry):
                    pending.append((path, entry.path))

    def _read(self, path: str, file: os.DirEntry[str]) -> CacheEntry:
        status = file.stat()
        signature = (status.st_size, status.st_mtime_ns, status.st_ino)
        known = self.cache.get(path)
        # A blob may go while the manifest stays; a manifest that was refused may get its blob.
        if known and known.signature == signature:
            if known.entry.inodes == inodes_of(known.entry.loaded_files):
                return known
        inner = PurePosixPath(path)
        reference = from_manifest_path(inner)
        data = read_small(Path(file.path), MAX_MANIFEST_BYTES)
        entry = self._entry(reference, parse_manifest(data), inner)
        # Ollama shows the digest of a manifest without its kind.
        digest = hex_of(media.digest_of(data))
        inodes = inodes_of(entry.loaded_files)
        entry = replace(entry, digest=digest, modified_at=status.st_mtime, inodes=inodes)
        return CacheEntry(signature, reference, entry)

    def _entry(self, reference: Reference, manifest: Manifest, path: PurePosixPath) -> Entry:
        contents = Contents(manifest, self.blob)
        config = contents.config()
        files, refusal = self._files(manifest, config)
        template, template_file = self._template(manifest, contents)
        projectors = [self.blob(layer.digest) for layer in manifest.of_type(media.PROJECTOR)]
        systems = contents.texts(media.SYSTEM)
        return Entry(
            name=reference.short,
            path=files[0] if files else self.manifests / path,
            files=files,
            size_bytes=manifest.size_bytes,
            modified_at=0.0,
            projector=projectors[-1] if projectors else None,
            source=self.source,
            params=MappingProxyType(contents.params()),
            system=systems[-1] if systems else None,
            template=template,
            template_file=template_file,
            messages=contents.messages(),
            adapters=tuple(self.blob(layer.digest) for layer in manifest.of_type(media.ADAPTER)),
            licenses=tuple(contents.texts(media.LICENSE)),
            config=MappingProxyType(config),
            refusal=refusal,
            parent=next((layer.from_ for layer in manifest.of_type(media.MODEL)), "")[:LONGEST],
        )

    def _files(
        self, manifest: Manifest, config: dict[str, Any]
    ) -> tuple[tuple[Path, ...], str | None]:
        """The model's files, and why they cannot be loaded, if so."""
        if config.get("remote_host"):
            return (), f"it runs at {config['remote_host']}, and none of it is on this machine"
        if manifest.of_type(media.TENSOR) or config.get("model_format") == "safetensors":
            return (), (
                "it is kept as single tensors, which only Ollama's own engine reads; llama.cpp "
                "needs a GGUF of it"
            )
        layers = manifest.of_type(media.MODEL)
        if not layers:
            return (), "there is no model among its blobs"
        if len(layers) > 1 and all(layer.name for layer in layers):
            folder = self.parts_folder(layers[0])
            files = tuple(folder / layer.name for layer in layers)
        else:
            files = (self.blob(layers[-1].digest),)
        missing = [file.name for file in files if not is_regular(file)]
        return files, f"blob {missing[0]} is missing; pull the model again" if missing else None

    def _template(self, manifest: Manifest, contents: Contents) -> tuple[str | None, Path | None]:
        layers = (*manifest.of_type(media.TEMPLATE), *manifest.of_type(media.OLD_TEMPLATE))
        if not layers:
            return None, None
        text = contents.texts(media.TEMPLATE, media.OLD_TEMPLATE)[-1]
        return text, self.blob(layers[-1].digest) if kind_of(text) == "jinja" else None


class Stores:
    """The stores that policies ask for. One that stays is the same object, and knows its models."""

    def __init__(self, home: Path) -> None:
        self._home = home
        # What changes: the stores of the last time.
        self._known: dict[Path, Store] = {}

    def at(self, state: Path, ollama_dir: Path | None, *, ollama: bool) -> tuple[Store, ...]:
        """Our store, then Ollama's: at `ollama_dir`, or where it keeps it if nobody says."""
        places = ([ollama_dir] if ollama_dir else ollama_places(self._home)) if ollama else []
        stores = [self._known.get(state) or Store(state, "own")]
        stores += [
            self._known.get(place) or Store(place, "ollama") for place in places if place != state
        ]
        self._known = {store.root: store for store in stores}
        return tuple(stores)


def ollama_places(home: Path) -> tuple[Path, ...]:
    """Where Ollama keeps its models if nobody says otherwise: a user's own, then those of services.

    Only those that are there; Ollama reads one of them, and so do we all.
    """
    places = (
        home / ".ollama" / "models",
        Path("/usr/share/ollama/.ollama/models"),
        Path("/var/lib/ollama/.ollama/models"),
        Path("/var/lib/ollama/models"),
        Path("/var/lib/ollama"),
        Path("/var/snap/ollama/common/models"),
    )
    return tuple(place for place in places if os.access(place / "manifests", os.R_OK))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
