import asyncio
from pathlib import Path

import pytest

from proxy.catalog.gguf_reader import read_header
from proxy.catalog.local import Catalog
from proxy.hub.hub import Hub
from proxy.hub.huggingface import File, choose
from proxy.hub.progress import PullFailed
from tests.hub import servers
from tests.hub.conftest import MakeGguf
from tests.hub.servers import digest
from tests.hub.test_pull import pulled, statuses


def files(*paths: str) -> list[File]:
    return [File(path, f"sha256:{'0' * 64}", 1) for path in paths]


@pytest.mark.parametrize(
    ("tag", "parts", "projector"),
    [
        ("latest", ["m-Q4_K_M.gguf"], "mmproj-m-F16.gguf"),
        ("Q8_0", ["m-Q8_0.gguf"], "mmproj-m-F16.gguf"),
        ("q4_k_m", ["m-Q4_K_M.gguf"], "mmproj-m-F16.gguf"),
        ("m-IQ2_XXS.gguf", ["m-IQ2_XXS.gguf"], "mmproj-m-F16.gguf"),
        (
            "BF16",
            ["BF16/m-BF16-00001-of-00002.gguf", "BF16/m-BF16-00002-of-00002.gguf"],
            "mmproj-m-F16.gguf",
        ),
        ("UD-Q2_K_XL", ["UD-Q2_K_XL/m-UD-Q2_K_XL.gguf"], "mmproj-m-F16.gguf"),
    ],
)
def test_choose(tag: str, parts: list[str], projector: str) -> None:
    there = files(
        "README.md",
        "BF16/m-BF16-00002-of-00002.gguf",
        "BF16/m-BF16-00001-of-00002.gguf",
        "UD-Q2_K_XL/m-UD-Q2_K_XL.gguf",
        "m-IQ2_XXS.gguf",
        "m-Q4_K_M.gguf",
        "m-Q8_0.gguf",
        "m-imatrix.gguf",
        "mmproj-m-BF16.gguf",
        "mmproj-m-F16.gguf",
    )

    choice = choose(there, tag)

    assert [file.path for file in choice.parts] == parts
    assert choice.projector is not None
    assert choice.projector.path == projector


def test_choose_refuses() -> None:
    with pytest.raises(PullFailed, match="no GGUF file"):
        choose(files("model.safetensors"), "latest")
    with pytest.raises(PullFailed, match="there is no 'Q4_0' in this repository; it has q8_0"):
        choose(files("m-Q8_0.gguf"), "Q4_0")
    with pytest.raises(PullFailed, match="has 1 of 2 parts"):
        choose(files("m-Q8_0-00001-of-00002.gguf"), "Q8_0")
    assert choose(files("only.gguf"), "latest").parts[0].path == "only.gguf"


async def test_a_repository(
    hub: Hub, catalog: Catalog, server: servers.Hub, gguf: MakeGguf
) -> None:
    data = gguf(1)
    server.files["Org.1/Repo-GGUF"] = {"m-Q4_K_M.gguf": data, "m-Q8_0.gguf": gguf(2)}

    lines = await pulled(hub, "hf.co/Org.1/Repo-GGUF:Q4_K_M")

    assert statuses(lines)[0] == "pulling manifest"
    assert statuses(lines)[-1] == "success"
    for name in ("hf.co/org.1/repo-gguf:q4_k_m", "org.1/repo-gguf:Q4_K_M"):
        entry = catalog.find(name)
        assert entry is not None
        assert entry.name == "hf.co/Org.1/Repo-GGUF:Q4_K_M"
        assert entry.path.read_bytes() == data
        assert entry.config["model_family"] == "qwen3"
    assert len(catalog.list()) == 1


async def test_a_cut_download_is_resumed(
    hub: Hub, catalog: Catalog, server: servers.Hub, gguf: MakeGguf
) -> None:
    data = gguf(1)
    server.files["org/repo"] = {"m-Q8_0.gguf": data}
    server.cut_after = [100_000]

    await pulled(hub, "huggingface.co/org/repo")

    assert server.from_bytes[0] == 0
    assert server.from_bytes[1] > 0
    entry = catalog.find("hf.co/org/repo")
    assert entry is not None
    assert entry.path.read_bytes() == data


async def test_a_split_model_with_its_projector(
    hub: Hub, catalog: Catalog, tmp_path: Path, server: servers.Hub, gguf: MakeGguf
) -> None:
    parts = [gguf(n, **{"split.no": n, "split.count": 2, "split.tensors.count": 2}) for n in (0, 1)]
    # Parts of one model have no tensor twice.
    parts[1] = parts[1].replace(b"blk.0.ffn_up", b"blk.1.ffn_up")
    projector = gguf(9)
    server.files["org/repo"] = {
        "Q8_0/m-Q8_0-00001-of-00002.gguf": parts[0],
        "Q8_0/m-Q8_0-00002-of-00002.gguf": parts[1],
        "mmproj-F16.gguf": projector,
    }

    await pulled(hub, "hf.co/org/repo:Q8_0")

    entry = catalog.find("hf.co/org/repo:Q8_0")
    assert entry is not None
    assert [file.name for file in entry.files] == [
        "m-Q8_0-00001-of-00002.gguf",
        "m-Q8_0-00002-of-00002.gguf",
    ]
    assert len(read_header(entry.path).tensors) == 2
    assert entry.projector is not None
    assert entry.projector.read_bytes() == projector

    await hub.delete(entry.name)

    assert catalog.list() == ()
    assert not entry.path.parent.exists()
    assert list((tmp_path / "state" / "blobs").iterdir()) == []


async def test_a_wrong_digest_is_refused(
    hub: Hub, catalog: Catalog, server: servers.Hub, gguf: MakeGguf
) -> None:
    data = gguf(1)
    server.files["org/repo"] = {"m-Q8_0.gguf": data}
    server.spoil = True

    with pytest.raises(PullFailed, match="digest mismatch"):
        await pulled(hub, "hf.co/org/repo")

    assert catalog.list() == ()


async def test_the_library_understands_the_server(server: servers.Hub, gguf: MakeGguf) -> None:
    """So that the tests here say something about the real site."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    data = gguf(1)
    server.files["org/repo"] = {"m-Q8_0.gguf": data}
    url = hf_hub_url("org/repo", "m-Q8_0.gguf", revision=servers.COMMIT, endpoint=server.url)

    found = await asyncio.to_thread(get_hf_file_metadata, url, endpoint=server.url)

    assert (found.commit_hash, found.size) == (servers.COMMIT, len(data))
    assert f"sha256:{found.etag}" == digest(data)


async def test_what_is_not_there_is_said(
    hub: Hub, server: servers.Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PullFailed, match="has no org/nothing"):
        await pulled(hub, "hf.co/org/nothing")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PullFailed, match=r"cannot reach http://127.0.0.1:9: .* online"):
        await pulled(hub, "hf.co/org/repo")
