"""Pulls a model into our own store: from Hugging Face, or from a registry like Ollama's."""

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

import aiohttp
import msgspec

from proxy.catalog import manifest as media
from proxy.catalog.contents import Contents
from proxy.catalog.gguf import GgufError
from proxy.catalog.manifest import Layer, Manifest, encode_manifest, parse_manifest
from proxy.catalog.reference import HUB_HOST, NAMESPACE, OLLAMA_HOST, Reference
from proxy.catalog.store import Store
from proxy.catalog.summary import summarise
from proxy.hub import huggingface, registry
from proxy.hub.addresses import Kinds, checked_redirects, may_reach, socket_factory
from proxy.hub.fetch import Remote, check_room, fetch, partial_of
from proxy.hub.progress import NotOffered, PullFailed, Report, progress, status
from proxy.hub.writer import Writer
from proxy.threads import STORE

# A model that is removed while a pull of it ends can take blobs away that the pull relied on.
MAX_ROUNDS: Final = 3


class Puller:
    """Downloads what is missing. A blob that another store has, such as Ollama's, is linked."""

    def __init__(self, writer: Writer, change: asyncio.Lock) -> None:
        self._writer = writer
        self._change = change  # held while manifests change
        # What changes: the connections, by where they may lead, and who downloads which blob just
        # now.
        self._sessions: dict[Kinds, aiohttp.ClientSession] = {}
        self._blobs: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()

    async def pull(
        self, reference: Reference, report: Report, *, insecure: bool, others: Sequence[Store] = ()
    ) -> None:
        """Bring a model into our store. Raises PullFailed, BadRequest."""
        reference = await STORE.run(self._writer.spelled, reference)
        report(status("pulling manifest"))
        if reference.on_hub:
            await self._pull_repository(reference, report, others)
            return
        session = await self._http(reference.host)
        try:
            data, manifest = await registry.read_manifest(session, reference, insecure=insecure)
        except registry.NotInRegistry as error:
            repository = _as_repository(reference)
            if repository is None:
                raise
            try:
                await self._pull_repository(repository, report, others)
            except PullFailed as other:
                kind = NotOffered if isinstance(other, NotOffered) else PullFailed
                raise kind(f"{error.message}; {other.message}") from other
            return
        remotes = registry.blobs_of(reference, manifest, insecure=insecure)
        await self._install(session, reference, data, remotes, report, others)

    async def _pull_repository(
        self, reference: Reference, report: Report, others: Sequence[Store]
    ) -> None:
        commit, files = await STORE.run(huggingface.list_files, reference)
        choice = huggingface.choose(files, reference.tag)
        chosen = [*choice.parts, *([choice.projector] if choice.projector else [])]
        remotes = [huggingface.remote_of(reference, commit, file) for file in chosen]
        session = await self._http(huggingface.host_of_endpoint())
        await self._bring(session, remotes, report, others)
        named = len(choice.parts) > 1
        layers = [
            Layer(media.MODEL, file.digest, file.size, name=file.name if named else "")
            for file in choice.parts
        ]
        if choice.projector:
            layers.append(Layer(media.PROJECTOR, choice.projector.digest, choice.projector.size))
        try:
            first = await STORE.run(self._writer.link_parts, Manifest(layers=tuple(layers)))
            config = await STORE.run(config_of, first)
        except GgufError as error:
            raise PullFailed(f"{chosen[0].path} cannot be used: {error}") from error
        layer, _ = await STORE.run(self._writer.add, config, media.CONFIG)
        data = encode_manifest(Manifest(layer, tuple(layers)))
        await self._install(session, reference, data, remotes, report, others)

    async def _install(
        self,
        session: aiohttp.ClientSession,
        reference: Reference,
        data: bytes,
        remotes: list[Remote],
        report: Report,
        others: Sequence[Store],
    ) -> None:
        for _ in range(MAX_ROUNDS):
            await self._bring(session, remotes, report, others)
            report(status("verifying sha256 digest"))
            await self._check_contents(reference, data)
            async with self._change:
                if all(self._writer.store.blob(remote.digest).exists() for remote in remotes):
                    report(status("writing manifest"))
                    await STORE.run(self._writer.write_manifest, reference, data)
                    return
        raise PullFailed(f"the blobs of {reference.short} are removed as fast as they are pulled")

    async def _bring(
        self,
        session: aiohttp.ClientSession,
        remotes: list[Remote],
        report: Report,
        others: Sequence[Store],
    ) -> None:
        store = self._writer.store
        await STORE.run(self._check_room, remotes, others)
        for remote in remotes:
            lock = self._blobs.setdefault(remote.digest, asyncio.Lock())
            async with lock:
                target = store.blob(remote.digest)
                if not target.exists() and not await STORE.run(self._link, remote.digest, others):
                    await fetch(session, remote, target, report)
            report(progress(remote.digest, remote.size, remote.size))

    async def _check_contents(self, reference: Reference, data: bytes) -> None:
        """Raises PullFailed for a model that the catalogue could not list; nothing of it stays."""
        manifest = parse_manifest(data)
        try:
            await STORE.run(Contents(manifest, self._writer.store.blob).check)
        except FileNotFoundError:
            return  # removed just now: it is brought again
        except (OSError, ValueError) as error:
            async with self._change:
                await STORE.run(self._writer.remove_unused, manifest)
            raise PullFailed(f"{reference.short} cannot be used: {error}") from error

    def _link(self, digest: str, others: Sequence[Store]) -> bool:
        """Whether another store had the blob, which is ours now too."""
        for other in others:
            if (blob := other.blob(digest)).is_file():
                self._writer.adopt(blob, media.MODEL, digest)
                return True
        return False

    def _check_room(self, remotes: list[Remote], others: Sequence[Store]) -> None:
        """Raises PullFailed if the disk cannot hold what nobody has yet."""
        self._writer.blobs.mkdir(parents=True, exist_ok=True)
        stores = (self._writer.store, *others)
        missing = [
            remote
            for remote in remotes
            if not any(store.blob(remote.digest).exists() for store in stores)
        ]
        have = {}
        for remote in missing:
            partial = partial_of(self._writer.store.blob(remote.digest))
            have[media.hex_of(remote.digest)] = partial.stat().st_size if partial.exists() else 0
        check_room(self._writer.blobs, missing, have)

    async def _http(self, host: str) -> aiohttp.ClientSession:
        """Connections that lead to where the registry `host` may lead."""
        kinds = await STORE.run(may_reach, host)
        if kinds not in self._sessions:
            connections = await STORE.run(socket_factory, kinds)
            # Of our own: aiohttp's may trust nobody (proxy/cli/start.py).
            trusted = await STORE.run(ssl.create_default_context)
            # Its total time is not limited: large files on slow lines take hours.
            self._sessions[kinds] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(socket_factory=connections, ssl=trusted),
                trace_configs=[checked_redirects(kinds)],
                trust_env=True,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=30),
            )
        return self._sessions[kinds]


def _as_repository(reference: Reference) -> Reference | None:
    """The repository of Hugging Face that `org/repo` may mean, which Ollama's registry has not."""
    if reference.host != OLLAMA_HOST or reference.namespace == NAMESPACE:
        return None
    return replace(reference, host=HUB_HOST)


def config_of(file: Path) -> bytes:
    """The configuration that goes with a GGUF, as lists of models show it. Raises GgufError."""
    found = summarise(file)
    config = {
        "model_format": "gguf",
        "model_family": found.architecture,
        "model_families": [found.architecture],
        "model_type": found.parameters,
        "file_type": found.quantization,
        "architecture": "amd64",
        "os": "linux",
    }
    return msgspec.json.encode(config)
