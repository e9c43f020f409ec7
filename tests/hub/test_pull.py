import asyncio
import os
import ssl
import subprocess
from contextlib import aclosing
from pathlib import Path

import aiohttp
import pytest
from structlog.testing import capture_logs

from proxy.catalog import reference
from proxy.catalog.local import Catalog
from proxy.catalog.store import Store
from proxy.errors import BadRequest
from proxy.hub import puller
from proxy.hub.hub import Hub
from proxy.hub.progress import Line, PullFailed
from proxy.hub.writer import Writer
from tests.hub import servers
from tests.hub.conftest import MakeGguf
from tests.hub.servers import digest
from tests.support.guard import HANG_S, until


async def pulled(hub: Hub, name: str) -> list[Line]:
    return [line async for line in hub.pull(name)]


def statuses(lines: list[Line]) -> list[str]:
    return list(dict.fromkeys(line["status"] for line in lines))


def blobs(tmp_path: Path) -> set[str]:
    folder = tmp_path / "state" / "blobs"
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def name_of(data: bytes) -> str:
    return digest(data).replace(":", "-")


@pytest.fixture
def small(server: servers.Hub, gguf: MakeGguf) -> tuple[str, bytes]:
    """A model in the registry, and the content of its largest blob."""
    data = gguf(1)
    layers = [
        ("model", data),
        ("params", b'{"temperature":0.5,"stop":["a","b"]}'),
        ("system", b"Hi"),
    ]
    server.add_model("library/tiny:1b", layers, {"model_format": "gguf", "model_family": "qwen3"})
    return f"{server.host}/library/tiny:1b", data


async def test_a_model_of_a_registry(
    hub: Hub, catalog: Catalog, server: servers.Hub, small: tuple[str, bytes]
) -> None:
    name, data = small

    lines = await pulled(hub, name)

    assert statuses(lines)[0] == "pulling manifest"
    assert statuses(lines)[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
    short = digest(data)[7:19]
    assert {line["status"] for line in lines if "digest" in line} >= {f"pulling {short}"}
    last = [line for line in lines if line.get("digest") == digest(data)][-1]
    assert last["total"] == last["completed"] == len(data)
    entry = catalog.find(name)
    assert entry is not None
    assert entry.path.read_bytes() == data
    assert entry.params == {"temperature": 0.5, "stop": ["a", "b"]}
    assert entry.system == "Hi"
    assert entry.source == "own"


async def test_redirects_are_followed(
    hub: Hub, catalog: Catalog, server: servers.Hub, small: tuple[str, bytes]
) -> None:
    server.redirect = True

    await pulled(hub, small[0])

    assert catalog.find(small[0]) is not None


async def test_a_cut_download_goes_on_where_it_was(
    hub: Hub, catalog: Catalog, server: servers.Hub, small: tuple[str, bytes]
) -> None:
    name, data = small
    server.cut_after = [70_000, 50_000]

    await pulled(hub, name)

    entry = catalog.find(name)
    assert entry is not None
    assert entry.path.read_bytes() == data
    assert server.asked[digest(data)] == 3
    assert server.from_bytes[:1] == [0]
    assert 0 < server.from_bytes[1] <= 70_000
    assert server.from_bytes[1] < server.from_bytes[2] <= 120_000


async def test_a_server_without_ranges_begins_again(
    hub: Hub, catalog: Catalog, server: servers.Hub, small: tuple[str, bytes]
) -> None:
    server.ranges = False
    server.cut_after = [70_000]

    await pulled(hub, small[0])

    entry = catalog.find(small[0])
    assert entry is not None
    assert entry.path.read_bytes() == small[1]


async def test_a_pull_that_was_left_is_resumed_by_the_next(
    hub: Hub, tmp_path: Path, server: servers.Hub, small: tuple[str, bytes]
) -> None:
    name, data = small
    server.gate = asyncio.Event()
    async with aclosing(hub.pull(name)) as lines:
        async for line in lines:
            if line.get("completed"):
                break

    assert name_of(data) + "-partial" in blobs(tmp_path)

    server.gate = None
    await pulled(hub, name)

    assert server.from_bytes[0] == 0
    assert server.from_bytes[1] > 0
    assert not [name for name in blobs(tmp_path) if name.endswith("-partial")]


async def test_a_wrong_digest_is_refused_and_removed(
    hub: Hub, catalog: Catalog, tmp_path: Path, server: servers.Hub, small: tuple[str, bytes]
) -> None:
    name, data = small
    server.blobs[digest(data)] = b"x" * len(data)

    with pytest.raises(PullFailed, match="digest mismatch, file must be downloaded again"):
        await pulled(hub, name)

    assert blobs(tmp_path) == set()
    assert catalog.list() == ()


async def test_a_blob_that_is_too_long_is_refused(
    hub: Hub, server: servers.Hub, small: tuple[str, bytes]
) -> None:
    server.blobs[digest(small[1])] += b"more"

    with pytest.raises(PullFailed, match="sends more than the manifest says"):
        await pulled(hub, small[0])


async def test_two_pulls_at_once_download_once(
    hub: Hub, server: servers.Hub, small: tuple[str, bytes]
) -> None:
    name, data = small
    server.gate = asyncio.Event()
    first = asyncio.create_task(pulled(hub, name))
    await asyncio.wait_for(server.half.wait(), HANG_S)
    second = hub.pull(name.upper())
    begun = await anext(second)
    server.gate.set()

    lines = [await first, [begun, *[line async for line in second]]]

    assert server.asked[digest(data)] == 1
    assert server.sent[digest(data)] == len(data)
    for told in lines:
        assert statuses(told)[0] == "pulling manifest"
        assert statuses(told)[-1] == "success"


async def test_two_models_with_the_same_blob_download_it_once(
    hub: Hub, catalog: Catalog, server: servers.Hub, small: tuple[str, bytes]
) -> None:
    name, data = small
    server.add_model("library/other:latest", [("model", data), ("system", b"Ho")], {})
    server.gate = asyncio.Event()
    first = asyncio.create_task(pulled(hub, name))
    await asyncio.wait_for(server.half.wait(), HANG_S)
    second = asyncio.create_task(pulled(hub, f"{server.host}/library/other"))
    lock = hub._puller._blobs[digest(data)]
    await until(lambda: "waiters:1" in repr(lock), "the second one waits for the first")
    server.gate.set()

    await asyncio.gather(first, second)

    assert server.asked[digest(data)] == 1
    assert len(catalog.list()) == 2


async def test_only_the_last_who_leaves_ends_a_pull(
    hub: Hub, server: servers.Hub, small: tuple[str, bytes]
) -> None:
    name, _ = small
    server.gate = asyncio.Event()
    stays = asyncio.create_task(pulled(hub, name))
    await asyncio.wait_for(server.half.wait(), HANG_S)
    leaves = hub.pull(name)
    await anext(leaves)
    await leaves.aclose()
    server.gate.set()

    assert statuses(await stays)[-1] == "success"


async def test_the_server_is_asked_again_after_an_error(
    hub: Hub, catalog: Catalog, server: servers.Hub, small: tuple[str, bytes]
) -> None:
    server.statuses = [503, 429]

    await pulled(hub, small[0])

    assert catalog.find(small[0]) is not None


async def test_what_cannot_be_pulled_is_said(hub: Hub, server: servers.Hub) -> None:
    with pytest.raises(PullFailed, match="file does not exist"):
        await pulled(hub, f"{server.host}/library/nothing")
    with pytest.raises(PullFailed, match=r"cannot get it from 127.0.0.1:9.* online"):
        await pulled(hub, "127.0.0.1:9/library/tiny")
    with pytest.raises(BadRequest, match="insecure"):
        await pulled(hub, "http://192.0.2.1/library/tiny")
    with pytest.raises(BadRequest, match="invalid model name"):
        await pulled(hub, "../../etc/passwd")


async def test_a_pull_gives_up(hub: Hub, server: servers.Hub, small: tuple[str, bytes]) -> None:
    server.statuses = [500] * 100

    with pytest.raises(PullFailed, match="HTTP 500"):
        await pulled(hub, small[0])


async def test_a_blob_that_ollama_has_is_not_downloaded(
    hub: Hub, catalog: Catalog, tmp_path: Path, server: servers.Hub, small: tuple[str, bytes]
) -> None:
    name, data = small
    theirs = tmp_path / "ollama"
    (theirs / "blobs").mkdir(parents=True)
    (theirs / "blobs" / name_of(data)).write_bytes(data)
    catalog.use([], {}, [*catalog.places.stores, Store(theirs, "ollama")])

    await pulled(hub, name)

    assert server.asked[digest(data)] == 0
    entry = catalog.find(name)
    assert entry is not None
    assert entry.path.read_bytes() == data


async def test_a_newer_version_replaces_the_old_one(
    hub: Hub, catalog: Catalog, tmp_path: Path, server: servers.Hub, gguf: MakeGguf
) -> None:
    old, new = gguf(1), gguf(2)
    server.add_model("library/tiny:latest", [("model", old)], {})
    await pulled(hub, f"{server.host}/library/tiny")
    server.add_model("library/tiny:latest", [("model", new)], {})

    await pulled(hub, f"{server.host}/library/tiny")

    (entry,) = catalog.list()
    assert entry.path.read_bytes() == new
    assert name_of(old) not in blobs(tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A file system of half a megabyte."""
    folder = tmp_path / "state"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk takes a right that we do not have")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def test_a_disk_that_fills_up_is_said_and_cleaned(
    small_disk: Path, tmp_path: Path, catalog: Catalog, server: servers.Hub, gguf: MakeGguf
) -> None:
    hub = Hub(small_disk, catalog)
    data = gguf(1, size=400_000)
    server.add_model("library/tiny:latest", [("model", data)], {})
    server.gate = asyncio.Event()

    pulling = asyncio.create_task(pulled(hub, f"{server.host}/library/tiny"))
    await asyncio.wait_for(server.half.wait(), HANG_S)
    (small_disk / "other").write_bytes(bytes(200_000))
    server.gate.set()

    with pytest.raises(PullFailed, match="no space left on device"):
        await pulling
    assert blobs(tmp_path) == set()
    assert catalog.list() == ()
    await hub.close()


async def test_a_disk_that_is_too_small_is_said_before(
    small_disk: Path, catalog: Catalog, server: servers.Hub, gguf: MakeGguf
) -> None:
    hub = Hub(small_disk, catalog)
    data = gguf(1, size=1_000_000)
    server.add_model("library/tiny:latest", [("model", data)], {})

    with pytest.raises(PullFailed, match=r"no space left on device: .* are to come"):
        await pulled(hub, f"{server.host}/library/tiny")

    assert server.asked[digest(data)] == 0
    await hub.close()


async def test_an_upload_that_finds_no_room(small_disk: Path, catalog: Catalog) -> None:
    hub = Hub(small_disk, catalog)

    async def chunks():  # type: ignore[no-untyped-def]
        for _ in range(10):
            yield bytes(100_000)

    with pytest.raises(PullFailed, match="no space left on device"):
        await hub.receive("sha256:" + "0" * 64, chunks())

    assert list((small_disk / "blobs").iterdir()) == []
    await hub.close()


async def test_a_store_that_cannot_be_written_is_said(
    tmp_path: Path, catalog: Catalog, small: tuple[str, bytes]
) -> None:
    (tmp_path / "file").touch()
    hub = Hub(tmp_path / "file", catalog)

    with pytest.raises(PullFailed, match=r"not a directory|file exists"):
        await pulled(hub, small[0])

    await hub.close()


async def test_what_was_left_behind_goes_in_the_end(
    hub: Hub, tmp_path: Path, small: tuple[str, bytes]
) -> None:
    await hub.sweep()
    await pulled(hub, small[0])
    kept = blobs(tmp_path)
    folder = tmp_path / "state" / "blobs"
    for file in folder.iterdir():
        os.utime(file, (0, 0))
    for name, time_s in (("sha256-a-partial", 0), ("sha256-" + "0" * 64, 0), ("new-partial", None)):
        (folder / name).touch()
        os.utime(folder / name, None if time_s is None else (time_s, time_s))
    (folder / "a folder").mkdir()
    os.utime(folder / "a folder", (0, 0))

    with capture_logs() as logs:
        await hub.sweep()

    assert blobs(tmp_path) == kept | {"new-partial", "a folder"}
    assert [(line["event"], Path(line["file"]).name) for line in logs] == [
        ("not_removed", "a folder")
    ]


async def test_what_ollamas_registry_lacks_may_be_a_repository(
    hub: Hub,
    catalog: Catalog,
    server: servers.Hub,
    gguf: MakeGguf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (reference, puller):
        monkeypatch.setattr(module, "OLLAMA_HOST", server.host)
    server.files["org/repo"] = {"m-Q4_K_M.gguf": gguf(1)}
    server.add_model("org/mine:latest", [("model", gguf(2))], {})

    await pulled(hub, "org/repo:Q4_K_M")
    await pulled(hub, "org/mine")

    assert [entry.name for entry in catalog.list()] == ["hf.co/org/repo:Q4_K_M", "org/mine:latest"]
    with pytest.raises(PullFailed, match=r"file does not exist: .*; .* has no org/neither"):
        await pulled(hub, "org/neither")
    with pytest.raises(PullFailed, match="file does not exist") as e:
        await pulled(hub, "neither")
    assert ";" not in e.value.message


async def test_it_trusts_whom_this_machine_trusts(tmp_path: Path) -> None:
    """Though aiohttp's own contexts, made at a start, may trust nobody."""
    usual = ssl.create_default_context().cert_store_stats()
    pulling = puller.Puller(Writer(Store(tmp_path / "state", "own")), asyncio.Lock())
    try:
        session = await pulling._http("registry.example")

        assert isinstance(session.connector, aiohttp.TCPConnector)
        assert session.connector._ssl.cert_store_stats() == usual  # type: ignore[union-attr]
    finally:
        await pulling.close()
