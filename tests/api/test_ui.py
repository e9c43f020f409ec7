"""The files of the page: how they are served, and how large they are. What the page does is tested
in tests/ui."""

import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

import proxy
from proxy.app import Running, Settings, running
from tests.support.policies import policies

PAGE = Path(proxy.__file__).parent / "ui"
ROOT = PAGE.parents[1]
MOST_BYTES = 150_000
FILES = sorted(str(path.relative_to(PAGE)) for path in PAGE.rglob("*") if path.is_file())


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Running]:
    file = tmp_path / "policies.toml"
    file.write_text(policies({}))
    async with running(Settings(port=0, policies=file, env={"HOME": str(tmp_path)})) as made:
        yield made


@pytest.fixture
async def client(served: Running) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(served.url) as session:
        yield session


def test_all_of_it_is_small() -> None:
    assert sum((PAGE / name).stat().st_size for name in FILES) <= MOST_BYTES


def test_nothing_in_it_comes_from_elsewhere() -> None:
    own = [name for name in FILES if not name.startswith("vendor/")]
    texts = {name: (PAGE / name).read_text() for name in own}

    assert {n: re.findall(r"https?://(?!www\.w3\.org)\S+", t) for n, t in texts.items() if "//" in t
            and re.search(r"https?://(?!www\.w3\.org)", t)} == {}  # fmt: skip
    assert not [name for name, text in texts.items() if "innerHTML" in text]
    assert not [name for name, text in texts.items() if re.search(r"<\w+[^>]* on[a-z]+=\"", text)]


def test_all_scripts_are_asked_for_at_once() -> None:
    """Not one after the other, as each is found to name others."""
    text = (PAGE / "index.html").read_text()
    preloaded = re.findall(r'<link rel="modulepreload" href="([^"]+)">', text)

    assert sorted(preloaded) == [n for n in FILES if n.endswith(".js") and n != "js/main.js"]


async def test_each_file_has_its_type_and_may_be_kept(client: aiohttp.ClientSession) -> None:
    types = {"html": "text/html", "css": "text/css", "js": "text/javascript",
             "svg": "image/svg+xml", "txt": "text/plain"}  # fmt: skip
    for name in FILES:
        async with client.get(f"/ui/{name}") as answer:
            assert answer.status == 200
            assert answer.content_type == types[name.rpartition(".")[2]]
            assert await answer.read() == (PAGE / name).read_bytes()
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            tag = answer.headers["ETag"]
        async with client.get(f"/ui/{name}", headers={"If-None-Match": tag}) as again:
            assert (again.status, await again.read()) == (304, b"")


async def test_the_page_lets_nothing_in_but_its_own(client: aiohttp.ClientSession) -> None:
    async with client.get("/ui/") as answer:
        policy = answer.headers["Content-Security-Policy"]

    assert answer.content_type == "text/html"
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "*" not in policy
    async with client.get("/ui", allow_redirects=False) as moved:
        assert (moved.status, moved.headers["Location"]) == (308, "/ui/")


@pytest.mark.parametrize("name", ["nothing.js", "../version.py", "%2e%2e/version.py", "js/", "js"])
async def test_nobody_leaves_the_folder(client: aiohttp.ClientSession, name: str) -> None:
    async with client.get(f"/ui/{name}") as answer:
        assert answer.status == 404


async def test_with_keys_the_page_is_there_and_no_data(tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("sk-one\n")
    file = tmp_path / "policies.toml"
    file.write_text(policies({}, server={"api_keys_file": str(keys)}))
    async with (
        running(Settings(port=0, policies=file, env={"HOME": str(tmp_path)})) as made,
        aiohttp.ClientSession(made.url) as session,
    ):
        for path, status in (
            ("/ui/", 200), ("/ui/js/main.js", 200), ("/ui/needs-key", 200), ("/uix", 401),
            ("/admin/state", 401), ("/admin/events?state", 401), ("/admin/requests", 401),
            ("/logs/stream", 401), ("/v1/models", 401), ("/ui/../admin/state", 401),
        ):  # fmt: skip
            async with session.get(path) as answer:
                assert answer.status == status, path
        async with session.get("/ui/needs-key") as answer:
            assert await answer.json() == {"needs_key": True}


def test_an_installed_copy_has_all_of_it(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    build = ["build_py", "--build-lib", str(tmp_path / "lib")]
    subprocess.run(command + build, cwd=ROOT, check=True, capture_output=True)

    found = tmp_path / "lib" / "proxy" / "ui"
    assert sorted(str(p.relative_to(found)) for p in found.rglob("*") if p.is_file()) == FILES


def test_what_others_have_written_has_its_licence() -> None:
    assert {"vendor/LICENSE-htm.txt", "vendor/LICENSE-preact.txt"} <= set(FILES)
