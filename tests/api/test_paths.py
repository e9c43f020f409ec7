"""What clients append to a base URL, and what they mean."""

from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from proxy.api.paths import plain_path
from proxy.app import Running
from tests.api.conftest import MODEL
from tests.support.policies import policies
from tests.support.proxy import Proxy
from tests.support.proxy import proxy as proxied


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("/", "/"),
        ("//", "/"),
        ("/api/tags/", "/api/tags"),
        ("//api/chat", "/api/chat"),
        ("/api//chat//", "/api/chat"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/v1/v1/messages", "/v1/messages"),
        ("/v1//v1/v1/models", "/v1/models"),
        ("/api/v1/models/a/b", "/v1/models/a/b"),
        ("/v1/api/chat", "/api/chat"),
        ("/api/api/tags", "/api/tags"),
        ("/api/chat/completions", "/v1/chat/completions"),
        ("/api/models", "/v1/models"),
        ("//unload", "/unload"),
        ("///upstream/m//v1/models/", "/upstream/m//v1/models/"),
    ],
)
def test_what_is_meant(sent: str, meant: str) -> None:
    assert plain_path(sent) == meant
    assert plain_path(meant) == meant


@pytest.mark.parametrize(
    "path",
    [
        "/api/embeddings",
        "/v1/models/v1/x",
        "/v1",
        "/v1/v1",
        "/upstream/a//b/",
        "/ui/",
        "/%2Funload",
        "/v1%2Fv1/models",
        "*",
        "",
    ],
)
def test_what_is_left_alone(path: str) -> None:
    assert plain_path(path) is path


@pytest.mark.llama
async def test_they_are_answered(proxy: Running, client: aiohttp.ClientSession) -> None:
    talk = {"model": MODEL, "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]}
    for path in (
        "/v1/chat/completions/",
        "//v1/chat/completions",
        "/v1/v1/chat/completions?x=1",
        "/api/v1/chat/completions",
        "/v1/v1/messages",
        "/v1/api/chat",
        "//api/chat/",
    ):
        async with client.post(URL(proxy.url + path, encoded=True), json=talk) as answer:
            assert answer.status == 200, (path, await answer.text())
    for path in ("/api/tags/", "/models/", "/api/v1/models", f"/v1/v1/models/{MODEL}/", "//"):
        async with client.get(URL(proxy.url + path, encoded=True)) as answer:
            assert answer.status == 200, path


ACTING = ("/unload", "/props?model=m", "/slots?model=m", "/lora-adapters?model=m")


def disguised(path: str) -> list[str]:
    """The same path by all ways that lead to it."""
    front, mark, query = path.partition("?")
    return [
        f"/{front}{mark}{query}",
        f"///{front}{mark}{query}",
        f"{front}/{mark}{query}",
        f"//{front.replace('/', '//')}//{mark}{query}",
    ]


async def status(
    asked: Proxy, method: str, path: str, headers: dict[str, str] | None = None
) -> int:
    url = URL(asked.url + path, encoded=True)
    async with asked.session.request(method, url, headers=headers) as answer:
        return answer.status


async def test_no_way_to_write_a_path_leads_around_who_may_ask(tmp_path: Path) -> None:
    """Judged is what is asked for, not how it was written."""
    browser = {"User-Agent": "Mozilla/5.0", "Host": "192.0.2.1:11434"}
    stranger = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"} | {
        "Sec-Fetch-Dest": "document"
    }
    text = policies({"m": {"path": "/nowhere.gguf"}}, catalog={"state": tmp_path / "state"})
    async with proxied(tmp_path, text) as asked:
        for path in (*ACTING, "/upstream/m/slots"):
            for way in (path, *disguised(path)):
                assert await status(asked, "GET", way, browser) == 403, way
                assert await status(asked, "HEAD", way, browser) == 403, way
                assert await status(asked, "GET", way, stranger) == 403, way


async def test_nor_around_what_a_key_may_do(tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("mine use\n")
    keys.chmod(0o600)
    server = {"api_keys_file": keys}
    text = policies({}, server=server, catalog={"state": tmp_path / "state"})
    async with proxied(tmp_path, text) as asked:
        mine = {"x-api-key": "mine"}
        for method, path in (
            ("GET", "/unload"),
            ("POST", "/api/pull"),
            ("DELETE", "/api/delete"),
            ("POST", "/api/blobs/sha256:0"),
            ("POST", "/slots/0?action=save"),
            ("POST", "/lora-adapters"),
            ("GET", "/admin/policies/policies.toml"),
            ("POST", "/admin/models/m/unload"),
            ("POST", "/upstream/m/slots/0"),
            ("GET", "/upstream/m/tools"),
        ):
            ways = disguised(path)
            if path.startswith("/api"):
                ways += [f"/v1{path}", f"/api{path}", f"/v1/v1{path}/"]
            for way in (path, *ways):
                assert await status(asked, method, way, mine) == 403, (method, way)
                assert await status(asked, method, way) == 401, (method, way)
        for way in ("/health", "//health/", "/v1/health", "/v1/v1/health", "/api/v1/health/"):
            assert await status(asked, "GET", way) == 200, way
        for way in ("/v1/health/x", "/health/../unload", "/v1/health%2F..%2Fmodels"):
            assert await status(asked, "GET", way) == 401, way
