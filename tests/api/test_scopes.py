"""Which requests need a key that may change the machine."""

import asyncio
import json
from pathlib import Path

import pytest

from proxy.api.scopes import acts_on_slots, needs_admin
from tests.support.proxy import Proxy, proxy

CHANGES = [
    ("PUT", "/admin/backends/b1/split"),
    ("POST", "/admin/models/a/b:c/load"),
    ("POST", "/admin/models/m/unload"),
    ("PUT", "/admin/models/m/split"),
    ("GET", "/admin/policies/policies.toml"),
    ("PUT", "/admin/policies/policies.toml"),
    ("POST", "/admin/policies/policies.toml/check"),
    ("GET", "/admin/policies/policies.toml/versions"),
    ("GET", "/admin/policies/policies.toml/versions/20260101T000000000000Z"),
    ("POST", "/admin/requests/x/cancel"),
    ("POST", "/admin/models/m/pin"),
    ("POST", "/admin/models/m/unpin"),
    ("GET", "/unload"),
    ("HEAD", "/unload"),
    ("POST", "/api/pull"),
    ("POST", "/api/create"),
    ("POST", "/api/copy"),
    ("DELETE", "/api/delete"),
    ("POST", "/api/blobs/sha256:0"),
    ("POST", "/upstream/m/slots/0"),
    ("POST", "/upstream/m/props"),
    ("PUT", "/upstream/m/lora-adapters"),
    ("POST", "/upstream/m/tools"),
    ("GET", "/upstream/m/tools"),
    ("GET", "/upstream/m/%74ools"),
    ("GET", "/upstream/m/cors-proxy?url=http://127.0.0.1:1/v1/completions"),
    ("HEAD", "/upstream/m/cors-proxy"),
    ("POST", "/upstream/m/cors-proxy?url=http://127.0.0.1:1/v1/completions"),
    ("POST", "/upstream/m/models/load"),
    ("DELETE", "/upstream/m/v1/stream"),
    ("POST", "/upstream/m/v1/chat/completions/control"),
]
USES = [
    ("GET", "/admin/state"),
    ("GET", "/admin/requests"),
    ("GET", "/admin/backends/b1/splits"),
    ("GET", "/admin/models/m/plan"),
    ("GET", "/v1/models"),
    ("GET", "/api/tags"),
    ("GET", "/metrics"),
    ("GET", "/running"),
    ("POST", "/api/show"),
    ("POST", "/api/chat"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/messages"),
    ("HEAD", "/api/blobs/sha256:0"),
    ("GET", "/upstream/m/health"),
    ("POST", "/upstream/m/v1/chat/completions"),
    ("POST", "/nothing/here"),
]


async def status(asked: Proxy, method: str, path: str, key: str) -> int:
    async with asked.session.request(method, path, headers={"x-api-key": key}) as answer:
        return answer.status


async def test_a_key_for_use_cannot_change_the_machine(tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("mine use anna\nroot admin\n")
    keys.chmod(0o600)
    policies = f'[server]\napi_keys_file = "{keys}"\nremote_policies = true\n'
    async with proxy(tmp_path, policies) as asked:
        for method, path in CHANGES:
            assert await status(asked, method, path, "mine") == 403, (method, path)
            assert await status(asked, method, path, "root") != 403, (method, path)
        for method, path in USES:
            assert await status(asked, method, path, "mine") not in (401, 403), (method, path)
        headers = {"x-api-key": "mine"}
        async with asked.session.post("/api/pull", headers=headers) as answer:
            assert "may use models" in (await answer.json())["error"]
        async with asked.session.get("/admin/state", headers=headers) as answer:
            told = await answer.json()
        (anna,) = (key for key in told["keys"] if key["name"] == "anna")
        assert anna["requests"] > len(CHANGES)
        assert '"mine"' not in json.dumps(told)


async def test_a_key_that_is_no_text_is_not_known(tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("sk-mine\n")
    async with proxy(tmp_path, f'[server]\napi_keys_file = "{keys}"\n') as asked:
        port = int(asked.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Authorization: Bearer \xe9\r\n\r\n"
        )
        answer = await reader.read()
        writer.close()

    assert answer.startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize("path", ["/upstream/m/slots/0%3Faction=erase", "/upstream/m/slots/0"])
def test_a_path_counts_as_it_was_sent(path: str) -> None:
    assert needs_admin("POST", "/upstream/{rest}", path)


@pytest.mark.parametrize("path", ["%u0074ools", "tool%U0073", "%u0063ors-proxy", "%74ools"])
def test_and_as_the_models_server_reads_it(path: str) -> None:
    assert needs_admin("GET", "/upstream/{rest}", f"/upstream/m/{path}")


@pytest.mark.parametrize(
    "path",
    [
        "/slots/0",
        "/%73lots/0",
        "/slots%2F0",
        "//slots/0",
        "/./slots/0",
        "/%u0073lots/0",
        "/%U0073lots/0",
    ],
)
def test_who_acts_on_slots_is_found_however_it_is_written(path: str) -> None:
    assert acts_on_slots("POST", path)
    assert not acts_on_slots("GET", path)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/completion", "/slotsofter", "/props"])
def test_who_does_not_is_let_through(path: str) -> None:
    assert not acts_on_slots("POST", path)
