"""Everything that changes which models there are: pull, create, copy, delete, upload."""

import asyncio
import hashlib
import json
import shlex
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from proxy.catalog.entry import Entry
from proxy.catalog.gguf import GgufError
from proxy.catalog.local import Catalog
from proxy.catalog.manifest import BadManifest, hex_of
from proxy.catalog.reference import BadName, Reference, parse_reference
from proxy.catalog.store import Store
from proxy.errors import BadRequest, Conflict, ModelNotFound, reason_of
from proxy.hub.create import CreateSpec, Creator
from proxy.hub.jobs import Jobs
from proxy.hub.progress import Line, NotOffered, PullFailed, Report, status
from proxy.hub.puller import Puller
from proxy.hub.writer import Writer
from proxy.threads import STORE

# A pull that nobody has taken up again for so long is given up.
LEFT_BEHIND_S: Final = 7 * 86400.0


class Hub:
    """Owns our store, at `state`. The catalogue is told of every change."""

    def __init__(self, state: Path, catalog: Catalog) -> None:
        self._catalog = catalog
        self._writer = Writer(Store(state, "own"))
        self._jobs = Jobs()
        change = asyncio.Lock()
        self._change = change
        self._puller = Puller(self._writer, change)
        self._creator = Creator(self._writer, catalog, change, self._find_or_pull)

    async def sweep(self) -> None:
        """Remove what pulls and uploads left behind long ago; for the start of a proxy."""
        async with self._change:
            await STORE.run(self._writer.sweep, LEFT_BEHIND_S)

    async def end_jobs(self) -> None:
        """End what runs; what was downloaded stays for the next time."""
        await self._jobs.close()

    async def close(self) -> None:
        """The same, for the end."""
        await self.end_jobs()
        await self._puller.close()

    def pull(
        self, name: str, *, insecure: bool = False, served_as: str | None = None
    ) -> AsyncGenerator[Line, None]:
        """The lines of a pull, which is shared by all who ask for it. `served_as`: the model that
        has this name already, without being called so in a store.

        Clients pull what they have just seen in a list. What nobody has to offer, but is here, is a
        success. Raises BadRequest, PullFailed. Leaving early cancels it unless somebody else
        follows it.
        """
        entry = self._catalog.find(name)
        if served_as is None and entry and self._catalog.origin(entry) is None:
            served_as = entry.name
        if served_as is not None:
            return _here(served_as, "it is not from a registry")
        reference = reference_of(name)

        async def work(report: Report) -> None:
            try:
                with _disk_troubles():
                    await self._pull(reference, report, insecure=insecure)
            except NotOffered as error:
                known = self._catalog.find(name)
                if known is None or known.refusal:
                    raise
                report(status(f"{known.name} stays as it is: {error.message}"))
            report(status("success"))

        return self._jobs.follow(("pull", reference.folded, insecure), work)

    def create(self, recipe: CreateSpec) -> AsyncGenerator[Line, None]:
        """The lines of the making of a model. Raises BadRequest, ModelNotFound, PullFailed."""

        async def work(report: Report) -> None:
            with _disk_troubles(), _no_model():
                await self._creator.create(recipe, report)
            await self._look()
            report(status("success"))

        # Two recipes for one name are two pieces of work; the later one wins.
        return self._jobs.follow(("create", recipe.name.folded, id(recipe)), work)

    async def copy(self, source: str, destination: str) -> None:
        """Raises ModelNotFound, BadRequest."""
        entry = self._catalog.find(source)
        if entry is None:
            reference_of(source, "source")
        name = reference_of(destination, "destination")
        if entry is None:
            raise ModelNotFound(f"model {source!r} not found")
        if entry.refusal:
            raise BadRequest(f"{entry.name} cannot be copied: {entry.refusal}")
        with _disk_troubles(), _no_model():
            await self._creator.copy(entry, name)
        await self._look()

    async def delete(self, name: str) -> None:
        """Raises ModelNotFound, and Conflict for a model that is not in our store."""
        entry = self._catalog.find(name)
        if entry is None:
            # What cannot be listed, since it is broken, is there all the same.
            await self._remove(reference_of(name, "name"), name)
            return
        origin = self._catalog.origin(entry)
        if origin is None:
            raise Conflict(
                f"model '{name}' is the file {entry.path}, which was not pulled and stays: delete "
                "the file yourself, and the model is gone"
            )
        if entry.source != "own":
            raise Conflict(_ollamas(name, origin[0].root))
        await self._remove(origin[1], name)

    async def _remove(self, reference: Reference, name: str) -> None:
        async with self._change:
            with _disk_troubles():
                try:
                    await STORE.run(self._writer.remove, reference)
                except FileNotFoundError as error:
                    raise ModelNotFound(f"model '{name}' not found") from error
        await self._look()

    def has_blob(self, digest: str) -> bool:
        """Raises BadRequest for what is no digest."""
        return any(store.blob(digest).exists() for store in self._stores(digest))

    async def receive(self, digest: str, chunks: AsyncIterator[bytes]) -> bool:
        """Keep an uploaded blob; whether it is new. Raises BadRequest where the digest is wrong."""
        target = self._stores(digest)[0].blob(digest)
        if target.exists():
            return False
        wanted = f"sha256:{hex_of(digest)}"
        with _disk_troubles():
            temporary = await STORE.run(self._writer.temporary)
            await self._keep(chunks, temporary, target, wanted)
        return True

    async def _keep(
        self, chunks: AsyncIterator[bytes], temporary: Path, target: Path, wanted: str
    ) -> None:
        found = hashlib.sha256()
        try:
            with temporary.open("wb") as file:

                def keep(data: bytes) -> None:
                    file.write(data)
                    found.update(data)

                async for chunk in chunks:
                    await STORE.run(keep, chunk)
            if f"sha256:{found.hexdigest()}" != wanted:
                raise BadRequest(
                    f"digest mismatch, expected {wanted!r}, got 'sha256:{found.hexdigest()}'"
                )
            await STORE.run(temporary.chmod, 0o644)
            await STORE.run(temporary.replace, target)
        finally:
            await STORE.run(temporary.unlink, missing_ok=True)

    def _stores(self, digest: str) -> list[Store]:
        """Ours first, then the others."""
        try:
            hex_of(digest)
        except BadManifest as error:
            raise BadRequest("invalid digest format") from error
        return [self._writer.store, *self._others()]

    def _others(self) -> list[Store]:
        stores = self._catalog.places.stores
        return [store for store in stores if store.root != self._writer.store.root]

    async def _pull(self, reference: Reference, report: Report, *, insecure: bool) -> None:
        await self._puller.pull(reference, report, insecure=insecure, others=self._others())
        await self._look()

    async def _find_or_pull(self, name: str, report: Report) -> Entry:
        entry = self._catalog.find(name)
        if entry is None:
            await self._look()
            entry = self._catalog.find(name)
        if entry is None:
            await self._pull(reference_of(name, "from"), report, insecure=False)
            entry = self._catalog.find(name)
        if entry is None:
            raise ModelNotFound(f"model '{name}' not found")
        return entry

    async def _look(self) -> None:
        await STORE.run(self._catalog.refresh)


async def _here(name: str, why: str) -> AsyncGenerator[Line, None]:
    yield status("pulling manifest")
    yield status(f"{name} stays as it is: {why}")
    yield status("success")


@contextmanager
def _disk_troubles() -> Iterator[None]:
    """Tells what a disk refuses: it is full, or not ours to write to."""
    try:
        yield
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise PullFailed(f"{reason_of(error)}{where}") from error


@contextmanager
def _no_model() -> Iterator[None]:
    """Tells that nothing can be made of a file that is none of a model."""
    try:
        yield
    except GgufError as error:
        raise BadRequest(f"this is no model: {error}", param="from") from error


def _ollamas(name: str, root: Path) -> str:
    """Why a model of Ollama's is not removed, and who can: `ollama rm` alone asks us again."""
    there = "OLLAMA_HOST=127.0.0.1:11435"
    return (
        f"model '{name}' is in Ollama's own store ({root}), which moe-proxy only reads. Ollama "
        f"itself removes it, on another port: `{there} OLLAMA_MODELS={shlex.quote(str(root))} "
        f"ollama serve`, and in a second terminal `{there} ollama rm {shlex.quote(name)}`"
    )


def reference_of(name: str, param: str = "model") -> Reference:
    """A name from a request. Raises BadRequest."""
    try:
        return parse_reference(name)
    except BadName as error:
        # Ollama's words, which its clients know.
        named = param in ("name", "source", "destination")
        told = f"{param} {json.dumps(name)} is invalid" if named else "invalid model name"
        raise BadRequest(told, param=param) from error
