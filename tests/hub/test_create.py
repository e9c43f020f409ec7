from pathlib import Path

import gguf as library
import pytest

from proxy.catalog.entry import Message
from proxy.catalog.gguf_reader import read_header
from proxy.catalog.local import Catalog
from proxy.catalog.reference import parse_reference
from proxy.catalog.store import Store
from proxy.errors import BadRequest, Conflict, ModelNotFound
from proxy.hub.create import CreateSpec
from proxy.hub.hub import Hub
from proxy.hub.progress import Line
from tests.hub.conftest import MakeGguf
from tests.hub.servers import digest
from tests.support.models import model

GO = "{{ if .System }}{{ .System }}{{ end }}{{ .Prompt }}"
JINJA = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"


async def once(data: bytes):  # type: ignore[no-untyped-def]
    yield data[:1000]
    yield data[1000:]


async def made(hub: Hub, name: str, **recipe: object) -> list[Line]:
    wanted = CreateSpec(parse_reference(name), **recipe)  # type: ignore[arg-type]
    return [line async for line in hub.create(wanted)]


@pytest.fixture
def folder(tmp_path: Path, catalog: Catalog) -> Path:
    """A folder of the catalogue with one model of mixed experts."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "base-Q8_0.gguf").symlink_to(model("qwen3moe", layers=2))
    catalog.use([folder], {})
    return folder


async def test_from_a_file_in_a_folder(
    hub: Hub, catalog: Catalog, folder: Path, tmp_path: Path
) -> None:
    lines = await made(
        hub,
        "mine",
        source="base",
        parameters={"moe_cpu_layers": 24, "num_ctx": 4096, "stop": ["x"]},
        system="You are Mario.",
        template=JINJA,
        messages=(Message("user", "Hi"), Message("assistant", "Ho")),
        licenses=("free",),
    )

    told = [line["status"] for line in lines]
    assert told[-2:] == ["writing manifest", "success"]
    assert len([text for text in told if text.startswith("creating new layer sha256:")]) == 6
    entry = catalog.find("MINE")
    assert entry is not None
    assert entry.name == "mine:latest"
    assert entry.params == {"moe_cpu_layers": 24, "num_ctx": 4096, "stop": ["x"]}
    assert entry.system == "You are Mario."
    assert entry.messages == (Message("user", "Hi"), Message("assistant", "Ho"))
    assert entry.licenses == ("free",)
    assert entry.template == JINJA
    assert entry.template_file is not None
    assert entry.template_file.read_text() == JINJA
    assert entry.path.samefile(folder / "base-Q8_0.gguf")
    assert read_header(entry.path).is_moe

    await made(hub, "mine", source="mine", parameters={"num_ctx": 8192})
    entry = catalog.find("mine")
    assert entry is not None
    assert entry.params == {"moe_cpu_layers": 24, "num_ctx": 8192, "stop": ["x"]}
    assert entry.system == "You are Mario."

    await hub.copy("mine", "other:v1")
    await hub.delete("mine")
    assert [entry.name for entry in catalog.list()] == ["base-Q8_0", "other:v1"]
    entry = catalog.find("other:v1")
    assert entry is not None
    assert entry.system == "You are Mario."

    await hub.delete("other:v1")
    assert list((tmp_path / "state" / "blobs").iterdir()) == []
    assert (folder / "base-Q8_0.gguf").exists()


async def test_from_uploaded_files(hub: Hub, catalog: Catalog, gguf: MakeGguf) -> None:
    data = gguf(1)
    adapter = gguf(2, **{"general.type": "adapter"})
    for content in (data, adapter):
        assert not hub.has_blob(digest(content))
        assert await hub.receive(digest(content), once(content))
        assert hub.has_blob(digest(content))
        assert not await hub.receive(digest(content), once(content))

    lines = await made(
        hub, "mine", files={"x.gguf": digest(data)}, adapters={"a.gguf": digest(adapter)}
    )

    assert lines[0]["status"] == "parsing GGUF"
    entry = catalog.find("mine")
    assert entry is not None
    assert entry.path.read_bytes() == data
    assert [path.read_bytes() for path in entry.adapters] == [adapter]


async def test_uploads_are_checked(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="digest mismatch, expected"):
        await hub.receive(digest(b"other"), once(b"this"))
    with pytest.raises(BadRequest, match="invalid digest"):
        hub.has_blob("sha256:../../x")

    assert list((tmp_path / "state" / "blobs").iterdir()) == []


async def test_split_files(hub: Hub, catalog: Catalog, gguf: MakeGguf) -> None:
    parts = [gguf(n, **{"split.no": n, "split.count": 2, "split.tensors.count": 2}) for n in (0, 1)]
    parts[1] = parts[1].replace(b"blk.0.ffn_up", b"blk.1.ffn_up")
    for part in parts:
        await hub.receive(digest(part), once(part))
    files = {f"big-0000{n + 1}-of-00002.gguf": digest(part) for n, part in enumerate(parts)}

    await made(hub, "mine", files=files)

    entry = catalog.find("mine")
    assert entry is not None
    assert [file.name for file in entry.files] == list(files)
    assert len(read_header(entry.path).tensors) == 2


async def test_quantize(hub: Hub, catalog: Catalog, tmp_path: Path) -> None:
    source = model("qwen3", layers=1, quant="F32", folder=tmp_path)
    data = bytearray(source.read_bytes())
    await hub.receive(digest(bytes(data)), once(bytes(data)))
    await made(hub, "big", files={"x.gguf": digest(bytes(data))})

    lines = await made(hub, "small", source="big", quantize="q8_0")

    steps = [line for line in lines if line["status"] == "quantizing F32 model to Q8_0"]
    assert steps[-1]["completed"] == steps[-1]["total"] == len(data)
    assert {"status": "verifying conversion"} in lines
    entry = catalog.find("small")
    assert entry is not None
    assert catalog.summary(entry).quantization == "Q8_0"
    assert entry.size_bytes < len(data) / 2
    with pytest.raises(BadRequest, match="only supported for F16, BF16 and F32"):
        await made(hub, "smaller", source="small", quantize="Q4_0")
    with pytest.raises(BadRequest, match="'Q9' is no quantization"):
        await made(hub, "smaller", source="big", quantize="Q9")


async def test_templates(hub: Hub, catalog: Catalog, folder: Path, gguf: MakeGguf) -> None:
    lines = await made(hub, "mine", source="base", template=GO)

    assert any("Go template; the model's own" in line["status"] for line in lines)
    entry = catalog.find("mine")
    assert entry is not None
    assert (entry.template, entry.template_file) == (GO, None)
    bare = gguf(1)
    await hub.receive(digest(bare), once(bare))
    with pytest.raises(BadRequest, match="no chat template of its own"):
        await made(hub, "bare", files={"x.gguf": digest(bare)}, template=GO)
    with pytest.raises(BadRequest, match="not valid Jinja: line 1"):
        await made(hub, "mine", source="base", template="{% if x %}")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({}, "neither 'from' or 'files'"),
        ({"files": {"x.gguf": "sha256:" + "0" * 64}}, "POST it to /api/blobs first"),
        ({"files": {"../x.gguf": "sha256:" + "0" * 64}}, "must be relative"),
        ({"files": {"x.safetensors": "sha256:" + "0" * 64}}, "only GGUF files are taken"),
        ({"files": {"x.gguf": "md5:1"}}, "invalid digest"),
    ],
)
async def test_bad_recipes(hub: Hub, recipe: dict[str, object], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        await made(hub, "mine", **recipe)


async def test_only_our_own_models_are_deleted(
    hub: Hub, catalog: Catalog, folder: Path, tmp_path: Path
) -> None:
    theirs = Hub(tmp_path / "ollama", catalog)
    await made(theirs, "llama3", source="base")
    catalog.use([folder], {}, [*catalog.places.stores, Store(tmp_path / "ollama", "ollama")])

    with pytest.raises(Conflict, match="delete the file yourself"):
        await hub.delete("base")
    with pytest.raises(Conflict, match="Ollama's own store"):
        await hub.delete("llama3")
    with pytest.raises(ModelNotFound):
        await hub.delete("nothing")

    await hub.copy("llama3", "mine")
    (tmp_path / "ollama" / "manifests/registry.ollama.ai/library/llama3/latest").unlink()
    catalog.refresh()
    entry = catalog.find("mine")
    assert entry is not None
    assert entry.refusal is None
    await hub.delete("mine")
    assert library.GGUFReader(folder / "base-Q8_0.gguf").tensors
    await theirs.close()
