"""`moe-proxy pull` and `create`: through the proxy that runs, or on its store if none does.

Both give the same lines; `show` is told of each.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from proxy.catalog import manifest as media
from proxy.catalog.local import Catalog
from proxy.catalog.modelfile import (
    Modelfile,
    ModelfileError,
    decode_modelfile,
    parse_modelfile,
)
from proxy.catalog.store import Store, Stores
from proxy.cli.client import ClientError, Unreachable
from proxy.cli.pull_remote import Remote
from proxy.errors import ProxyError, reason_of
from proxy.hub.create import CreateSpec
from proxy.hub.hub import Hub, reference_of
from proxy.hub.progress import Line, status
from proxy.hub.writer import Writer, digest_of_file
from proxy.policy.load import load
from proxy.policy.model import Policies
from proxy.policy.values import home_of

Show = Callable[[Line], None]
# As much as a proxy would take.
MODELFILE_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """What a Modelfile's FROM and ADAPTER name: a model, or files by the names they get."""

    model: str | None
    files: Mapping[str, Path]
    adapters: Mapping[str, Path]


def pull(name: str, remote: Remote, show: Show, *, insecure: bool) -> None:
    """Raises ClientError."""
    if is_file(name):
        raise ClientError(
            f"{name} is a file, and pull fetches models by name; to have this one: moe-proxy "
            f"create NAME -f Modelfile, with the line FROM {name} in Modelfile, or its folder in "
            "catalog.dirs of the policies"
        )
    body = {"model": name, "insecure": insecure}
    try:
        _show(remote.lines("/api/pull", body), show)
    except Unreachable:
        if not remote.is_local:
            raise
        asyncio.run(_directly(lambda hub: hub.pull(name, insecure=insecure), show))


def create(name: str, file: Path, remote: Remote, show: Show, *, quantize: str | None) -> None:
    """Raises ClientError."""
    try:
        reference = reference_of(name)
        wanted = parse_modelfile(_text(file))
    except ProxyError as error:
        raise ClientError(error.message) from error
    except OSError as error:
        raise ClientError(f"{file}: {reason_of(error)}; name the Modelfile with -f FILE") from error
    except UnicodeDecodeError as error:
        raise ClientError(f"{file}: the text is neither UTF-8 nor UTF-16") from error
    except ModelfileError as error:
        raise ClientError(f"{file}: {error}") from error
    for note in wanted.notes:
        show(status(f"note: {note}"))
    source = source_of(wanted, file.parent)
    digests = _digests(source, show)
    recipe = CreateSpec(
        name=reference,
        source=source.model,
        files={name: digests[path] for name, path in source.files.items()},
        adapters={name: digests[path] for name, path in source.adapters.items()},
        parameters=wanted.parameters,
        template=wanted.template,
        system=wanted.system,
        messages=wanted.messages,
        licenses=wanted.licenses,
        quantize=quantize,
    )
    # The file is linked into the store, so that it need not be copied; where that store is another
    # one than the proxy's, it is uploaded.
    why_not_linked = _link(digests) if remote.is_local else None
    try:
        for path, digest in digests.items():
            if not remote.has_blob(digest):
                show(status(f"copying file {path.name}"))
                remote.upload(digest, path)
        _show(remote.lines("/api/create", _body(recipe)), show)
    except Unreachable:
        if not remote.is_local:
            raise
        if why_not_linked:
            raise ClientError(why_not_linked) from None
        asyncio.run(_directly(lambda hub: hub.create(recipe), show))


def source_of(wanted: Modelfile, folder: Path) -> Source:
    """What a Modelfile in `folder` names. Raises ClientError for a file that is not there."""
    files: dict[str, Path] = {}
    model = None
    for text in wanted.sources:
        path = _path(text, folder)
        if path.is_dir():
            found = sorted(path.glob("*.gguf"))
            if not found:
                raise ClientError(f"there is no *.gguf in {path}")
            files |= {file.name: file for file in found}
        elif path.is_file():
            files[path.name] = path
        elif text.startswith((".", "/", "~")) or text.lower().endswith(".gguf"):
            raise ClientError(f"FROM {text}: there is no such file")
        else:
            model = text
    adapters = {}
    for text in wanted.adapters:
        path = _path(text, folder)
        if not path.is_file():
            raise ClientError(f"ADAPTER {text}: there is no such file")
        adapters[path.name] = path
    if model and files:
        raise ClientError(f"FROM names a model, {model}, and files; one or the other")
    return Source(model, files, adapters)


def is_file(name: str) -> bool:
    """Whether what somebody wants to pull is a file of this machine, and no model's name."""
    if name.startswith(("/", "./", "../", "~")):
        return True
    return name.lower().endswith(".gguf") and Path(name).is_file()


def _text(file: Path) -> str:
    """A Modelfile, which may come through a pipe. Raises OSError, UnicodeDecodeError,
    ClientError."""
    with file.open("rb") as data:
        text = data.read(MODELFILE_BYTES + 1)
    if len(text) > MODELFILE_BYTES:
        raise ClientError(f"{file} is larger than any Modelfile")
    return decode_modelfile(text)


def _path(text: str, folder: Path) -> Path:
    return folder / Path(text).expanduser()


def _digests(source: Source, show: Show) -> dict[Path, str]:
    digests = {}
    for path in (*source.files.values(), *source.adapters.values()):
        show(status(f"hashing {path.name}"))
        try:
            digests[path] = digest_of_file(path)
        except OSError as error:
            raise ClientError(f"{path}: {reason_of(error)}") from error
    return digests


def _body(recipe: CreateSpec) -> dict[str, Any]:
    messages = [{"role": m.role, "content": m.content} for m in recipe.messages]
    return {
        "model": recipe.name.full,
        "from": recipe.source,
        "files": dict(recipe.files),
        "adapters": dict(recipe.adapters),
        "parameters": dict(recipe.parameters),
        "template": recipe.template,
        "system": recipe.system,
        "messages": messages,
        "license": list(recipe.licenses),
        "quantize": recipe.quantize,
    }


def _link(digests: Mapping[Path, str]) -> str | None:
    """Link files into our store; why not, if it cannot be written: it may be a service's, which
    gets them by upload."""
    writer = Writer(Store(_policies().catalog.state, "own"))
    for path, digest in digests.items():
        try:
            writer.adopt(path, media.MODEL, digest)
        except OSError as error:
            return f"{error.filename or path}: {reason_of(error)}"
    return None


def _show(lines: Iterator[Line], show: Show) -> None:
    for line in lines:
        show(line)


async def _directly(work: Callable[[Hub], AsyncGenerator[Line, None]], show: Show) -> None:
    """Do the work on the store itself. Raises ClientError."""
    policies = _policies()
    place = policies.catalog
    stores = Stores(home_of(os.environ)).at(place.state, place.ollama_dir, ollama=place.ollama)
    named = {name: model.path for name, model in policies.models.items() if model.path}
    catalog = await asyncio.to_thread(Catalog, place.dirs, named, stores)
    hub = Hub(place.state, catalog)
    try:
        async with aclosing(work(hub)) as lines:
            async for line in lines:
                show(line)
    except ProxyError as error:
        raise ClientError(error.message) from error
    finally:
        await hub.close()


def _policies() -> Policies:
    loaded = load(None, os.environ)
    if loaded.policies is None:
        raise ClientError(f"the policies have problems: {loaded.problems[0]}")
    return loaded.policies
