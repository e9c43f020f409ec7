"""Makes a model of our store from another one, or from files that were uploaded."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

import msgspec

from proxy.catalog import manifest as media
from proxy.catalog.contents import Contents
from proxy.catalog.entry import Entry, Message
from proxy.catalog.gguf import GgufError, Value
from proxy.catalog.gguf_reader import read_beginning, read_header
from proxy.catalog.local import Catalog
from proxy.catalog.manifest import BadManifest, Layer, Manifest, encode_manifest
from proxy.catalog.parts import MAX_PARTS, PART
from proxy.catalog.reference import LATEST, Reference
from proxy.catalog.templates import kind_of, problem_of_jinja
from proxy.errors import BadRequest
from proxy.hub.progress import Report, status
from proxy.hub.puller import config_of
from proxy.hub.quantize import SOURCES, quantize, type_of
from proxy.hub.writer import Writer, digest_of_file
from proxy.threads import STORE, WHOLE_MODELS

_TEXTS: Final = (media.TEMPLATE, media.OLD_TEMPLATE)


@dataclass(frozen=True, slots=True)
class CreateSpec:
    """What a model is made of. `files` and `adapters`: file names and the digests of blobs."""

    name: Reference
    source: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    adapters: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    template: str | None = None
    system: str | None = None
    messages: tuple[Message, ...] = ()
    licenses: tuple[str, ...] = ()
    quantize: str | None = None


@dataclass(frozen=True, slots=True)
class _Draft:
    """A model in the making, with what is to be told of its layers."""

    layers: tuple[Layer, ...]
    told: tuple[str, ...] = ()

    def plus(self, layer: Layer, new: bool) -> "_Draft":
        word = "creating new layer" if new else "using existing layer"
        return _Draft((*self.layers, layer), (*self.told, f"{word} {layer.digest}"))

    def without(self, *media_types: str) -> "_Draft":
        kept = tuple(layer for layer in self.layers if layer.media_type not in media_types)
        return replace(self, layers=kept)

    def made_from(self, name: str) -> "_Draft":
        name = name if ":" in name.rpartition("/")[2] else f"{name}:{LATEST}"
        layers = tuple(msgspec.structs.replace(layer, from_=name) for layer in self.layers)
        return replace(self, layers=layers)

    def first(self, media_type: str) -> Layer | None:
        return next((layer for layer in self.layers if layer.media_type == media_type), None)


class Creator:
    """Writes new models. `find` looks a model up by name, and pulls it if it has to."""

    def __init__(
        self,
        writer: Writer,
        catalog: Catalog,
        change: asyncio.Lock,
        find: Callable[[str, Report], Awaitable[Entry]],
    ) -> None:
        self._writer = writer
        self._catalog = catalog
        self._change = change
        self._find = find

    async def create(self, recipe: CreateSpec, report: Report) -> None:
        """Make the model; an older one of this name is replaced. Raises BadRequest, PullFailed."""
        kind = type_of(recipe.quantize) if recipe.quantize else None
        if recipe.source is not None:
            draft = await self._from_model(recipe.source, report)
        elif recipe.files:
            report(status("parsing GGUF"))
            draft = await WHOLE_MODELS.run(self._from_files, recipe.files)
        else:
            raise BadRequest("neither 'from' or 'files' was specified")
        model = draft.first(media.MODEL)
        if model is None:
            raise BadRequest("there is no model among these files")
        if recipe.adapters:
            draft = await WHOLE_MODELS.run(self._with_adapters, draft, recipe.adapters)
        if kind:
            draft = await self._quantized(draft, model, kind, report)
        draft = await STORE.run(self._with_texts, draft, recipe, report)
        for told in dict.fromkeys(draft.told):
            report(status(told))
        config = await STORE.run(lambda: config_of(self._file(draft)))
        layer, _ = await STORE.run(self._writer.add, config, media.CONFIG)
        await self.install(recipe.name, Manifest(layer, draft.layers), report)

    async def copy(self, entry: Entry, name: Reference) -> None:
        """Give a model another name. What is not in our store yet is linked into it."""
        draft = await WHOLE_MODELS.run(self._of_entry, entry)
        origin = self._catalog.origin(entry)
        old = await STORE.run(origin[0].read, origin[1]) if origin else None
        if old and old.config and old.config.digest and origin:
            blob = origin[0].blob(old.config.digest)
            layer, _ = await STORE.run(self._writer.adopt, blob, media.CONFIG, old.config.digest)
        else:
            config = await STORE.run(config_of, entry.path)
            layer, _ = await STORE.run(self._writer.add, config, media.CONFIG)
        await self.install(name, Manifest(layer, draft.layers), lambda _: None)

    async def install(self, name: Reference, manifest: Manifest, report: Report) -> None:
        report(status("writing manifest"))
        async with self._change:
            name = await STORE.run(self._writer.spelled, name)
            for layer in manifest.all_layers():
                if not self._writer.store.blob(layer.digest).exists():
                    raise BadRequest(f"blob {layer.digest} was removed just now; try again")
            data = encode_manifest(manifest)
            await STORE.run(self._writer.write_manifest, name, data)

    async def _from_model(self, source: str, report: Report) -> _Draft:
        entry = await self._find(source, report)
        if entry.refusal:
            raise BadRequest(f"{entry.name} cannot be used: {entry.refusal}", param="from")
        if self._catalog.origin(entry) is None:
            report(status(f"hashing {entry.path.name}"))
        draft = await WHOLE_MODELS.run(self._of_entry, entry)
        return draft.made_from(entry.name)

    def _of_entry(self, entry: Entry) -> _Draft:
        """The layers of a model, all in our store then."""
        draft = _Draft(())
        if origin := self._catalog.origin(entry):
            store, reference = origin
            for layer in store.read(reference).layers:
                _, new = self._writer.adopt(
                    store.blob(layer.digest), layer.media_type, layer.digest
                )
                draft = draft.plus(layer, new)
            return draft
        for file in entry.files:
            layer, new = self._writer.adopt(file, media.MODEL)
            draft = draft.plus(_named(layer, file.name if len(entry.files) > 1 else ""), new)
        if entry.projector:
            draft = draft.plus(*self._writer.adopt(entry.projector, media.PROJECTOR))
        return draft

    def _from_files(self, files: Mapping[str, str]) -> _Draft:
        draft = _Draft(())
        for name in sorted(files):
            blob, found = self._uploaded(name, files[name])
            if found.get("general.type") == "adapter":
                raise BadRequest(f"{name} is an adapter; it belongs into 'adapters'")
            projector = found.get("general.architecture") == "clip"
            layer, new = self._writer.adopt(
                blob, media.PROJECTOR if projector else media.MODEL, files[name]
            )
            layer = msgspec.structs.replace(layer, from_=PurePosixPath(name).name)
            draft = draft.plus(_named(layer, _part_name(name, found)), new)
        return draft

    def _with_adapters(self, draft: _Draft, adapters: Mapping[str, str]) -> _Draft:
        for name in sorted(adapters):
            blob, found = self._uploaded(name, adapters[name])
            if found.get("general.type") not in (None, "adapter"):
                raise BadRequest(f"{name} is not an adapter but a {found['general.type']}")
            draft = draft.plus(*self._writer.adopt(blob, media.ADAPTER, adapters[name]))
        return draft

    def _uploaded(self, name: str, digest: str) -> tuple[Path, Mapping[str, Value]]:
        """An uploaded file's blob and the beginning of its header. Raises BadRequest."""
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise BadRequest("file path must be relative")
        if path.suffix in (".safetensors", ".bin", ".pth"):
            raise BadRequest(
                f"{name}: only GGUF files are taken; llama.cpp's convert_hf_to_gguf.py makes one"
            )
        try:
            blob = self._writer.store.blob(digest)
        except BadManifest as error:
            raise BadRequest(f"invalid digest format: {error}") from error
        if not blob.exists():
            raise BadRequest(f"blob {digest} of {name} is not here; POST it to /api/blobs first")
        try:
            return blob, read_beginning(blob)
        except GgufError as error:
            raise BadRequest(f"supplied file was not in GGUF format: {name}: {error}") from error

    async def _quantized(self, draft: _Draft, model: Layer, kind: str, report: Report) -> _Draft:
        source = await STORE.run(self._file, draft)
        was = msgspec.json.decode(await STORE.run(config_of, source))["file_type"]
        if was == kind:
            return draft
        if was not in SOURCES:
            raise BadRequest(
                f"quantization is only supported for F16, BF16 and F32 models; this is {was}"
            )
        target = await STORE.run(self._writer.temporary)
        try:
            await quantize(source, target, kind, was, report)
            report(status("verifying conversion"))
            digest = await WHOLE_MODELS.run(digest_of_file, target)
            size = target.stat().st_size
            await STORE.run(target.chmod, 0o644)
            await STORE.run(target.replace, self._writer.store.blob(digest))
        finally:
            await STORE.run(target.unlink, missing_ok=True)
        layer = Layer(media.MODEL, digest, size)
        # The model's layer stays the first.
        rest = draft.without(media.MODEL)
        told = (
            f"creating new layer {digest}",
            *(t for t in rest.told if model.digest not in t),
        )
        return _Draft((layer, *rest.layers), told)

    def _with_texts(self, draft: _Draft, recipe: CreateSpec, report: Report) -> _Draft:
        if recipe.template:
            draft = self._with_template(draft, recipe.template, report)
        if recipe.system:
            draft = draft.without(media.SYSTEM).plus(
                *self._writer.add(recipe.system.encode(), media.SYSTEM)
            )
        for text in recipe.licenses:
            draft = draft.plus(*self._writer.add(text.encode(), media.LICENSE))
        if recipe.parameters:
            kept = Contents(Manifest(layers=draft.layers), self._writer.store.blob).params()
            data = msgspec.json.encode(kept | dict(recipe.parameters))
            draft = draft.without(media.PARAMS).plus(*self._writer.add(data, media.PARAMS))
        if recipe.messages:
            data = msgspec.json.encode(
                [{"role": message.role, "content": message.content} for message in recipe.messages]
            )
            draft = draft.without(media.MESSAGES).plus(*self._writer.add(data, media.MESSAGES))
        return draft

    def _with_template(self, draft: _Draft, template: str, report: Report) -> _Draft:
        kind = kind_of(template)
        if kind == "jinja":
            if problem := problem_of_jinja(template):
                raise BadRequest(
                    f"the template cannot be used: {problem}",
                    param="template",
                )
        else:
            own = read_header(self._file(draft)).has_chat_template
            what = "a Go template" if kind == "go" else "a template that fills nothing in"
            if not own:
                raise BadRequest(
                    f"this is {what}, and the model has no chat template of its own: llama-server "
                    "reads Jinja, so give the template in Jinja",
                    param="template",
                )
            report(status(f"note: this is {what}; the model's own chat template is used"))
        return draft.without(*_TEXTS).plus(*self._writer.add(template.encode(), media.TEMPLATE))

    def _file(self, draft: _Draft) -> Path:
        return self._writer.link_parts(Manifest(layers=draft.layers))


def _named(layer: Layer, name: str) -> Layer:
    return msgspec.structs.replace(layer, name=name)


def _part_name(name: str, found: Mapping[str, Value]) -> str:
    """What a file of a split model has to be called; empty for a whole model."""
    count, number = found.get("split.count"), found.get("split.no")
    if not isinstance(count, int) or not isinstance(number, int) or count < 2:
        return ""
    if not 0 <= number < count <= MAX_PARTS:
        raise BadRequest(f"{name} says that it is part {number + 1} of {count}")
    match = PART.fullmatch(PurePosixPath(name).name)
    stem = re.sub(r"[^\w.-]", "_", match["stem"]) if match else "model"
    return f"{stem}-{number + 1:05d}-of-{count:05d}.gguf"
