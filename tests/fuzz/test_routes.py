"""Every route, with what it accepts and with what is near that: no error of ours is a 500, nothing
hangs, no connection breaks, and the proxy goes on as before. A worker of a real model answers what
is understood.
"""

import http.client
import json
import resource
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from proxy.api.middleware import SHARED
from proxy.api.server import make_app
from proxy.dialect.errors import dialect_of
from tests.fuzz.requests import MODEL, NAMED, ROUTES, Sent, Takes, anywhere, requests
from tests.support.guard import HANG_S, THOROUGH
from tests.support.models import model
from tests.support.policies import policies
from tests.support.served import Served, served

pytestmark = pytest.mark.llama

EXAMPLES, SLOW_EXAMPLES = 40, 6
# Of the whole proxy, after all that was sent. A leak of each body would be more than this.
MOST_GROWTH_BYTES = 64 << 20
MOST_NEW_DESCRIPTORS = 8
NO_HTTP = b"malformed"
BACKEND = "X-Moe-Proxy-Backend"
# Routes whose body names a model, or nothing, and which no worker answers.
OURS = {path for _, path in ROUTES if path.startswith(("/api/", "/admin/"))} - {
    "/api/generate", "/api/chat", "/api/embed", "/api/embeddings"
}  # fmt: skip
NOT_UNDERSTOOD = {"/infill"}  # the model has no tokens for it
# What the log says where something went wrong that should not have.
WRONG = (
    "request_failed",
    "task_crashed",
    "loop_failed",
    "listener_crashed",
    "child_gone",
    "Unhandled exception",
    "Error handling request",
)
ALL = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    # To make a failure smaller takes long where it is that nothing comes.
    phases=(Phase.explicit, Phase.generate),
)


class Asked:
    """The proxy, and how it was before the first stranger came."""

    def __init__(self, url: Served) -> None:
        self.url, self.port = url, urlsplit(url).port
        self.process = Path(f"/proc/{url.pid}")
        # How often a worker answered, and how often it had understood, by route.
        self.reached: Counter[str] = Counter()
        self.understood: Counter[str] = Counter()
        self.wrong: list[dict[str, Any]] = []  # what its log has told of so far
        self.warm_up()
        self.rss, self.descriptors = self.held_bytes(), self.open_files()

    def held_bytes(self) -> int:
        """Of main memory, by the proxy alone."""
        return int((self.process / "statm").read_text().split()[1]) * resource.getpagesize()

    def open_files(self) -> int:
        return len(list((self.process / "fd").iterdir()))

    def warm_up(self) -> None:
        for path in ("/v1/completions", "/v1/embeddings"):
            body = json.dumps({**NAMED, "prompt": "Hi", "input": "Hi", "max_tokens": 1}).encode()
            head = ((b"Host", b"localhost"),)
            status, _, data = self.ask(Sent("POST", path.encode(), head, body, False))
            assert status in (200, 500, 501), data

    def ask(
        self, sent: Sent, *, endless: bool = False
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """The whole answer, or of one without an end its head."""
        with socket.create_connection(("127.0.0.1", self.port), HANG_S) as connection:
            connection.sendall(sent.encode())
            answer = http.client.HTTPResponse(connection, method=sent.method)
            answer.begin()
            body = b"" if endless and answer.status == 200 else answer.read()
            return answer.status, answer.headers, body

    def state(self) -> dict[str, Any]:
        head = ((b"Host", b"localhost"),)
        status, _, body = self.ask(Sent("GET", b"/admin/state", head, b"", False))
        assert status == 200
        return dict(json.loads(body))


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    folder = tmp_path_factory.mktemp("fuzzed")
    text = policies(
        {MODEL: {"path": model(layers=4, template="Qwen-Qwen3-0.6B")}},
        defaults={"ctx": 1024, "parallel": 2, "keep_alive": "-1"},
        server={"max_body": "256KiB"},
        catalog={"ollama": False, "state": folder / "state"},
    )
    with served(folder, text) as url:
        yield Asked(url)


def all_routes() -> set[tuple[str, str]]:
    app = make_app(cast(Any, None))
    return {(route.method, route.resource.canonical) for route in app.router.routes()
            if route.resource is not None}  # fmt: skip


def test_no_route_is_forgotten() -> None:
    assert set(ROUTES) == all_routes()


def check(asked: Asked, sent: Sent, route: str = "", *, endless: bool = False) -> None:
    """Ask, and look at the answer alone."""
    status, headers, body = asked.ask(sent, endless=endless)
    # An error of llama-server is passed on, and then this says who answered.
    theirs = BACKEND in headers
    asked.reached[route] += theirs
    asked.understood[route] += theirs and status == 200
    assert theirs or status not in (500, 502, 504), (sent.encode()[:2000], body[:2000])
    if status >= 400 and not theirs and sent.method != "HEAD":
        # What is no HTTP at all has no path, and so no protocol of its own.
        no_http = status == 400 and headers["Connection"] == "close" and NO_HTTP in body
        says_who = any(name.lower() == b"anthropic-version" for name, _ in sent.headers)
        check_shape(b"/" if no_http else sent.target, json.loads(body), says_who=says_who)
    elif headers.get("Content-Type", "").startswith("application/json") and body:
        json.loads(body)


def check_shape(target: bytes, told: Any, *, says_who: bool = False) -> None:
    """An error as the clients of this path expect it. `says_who`: it is one of Anthropic's."""
    path = unquote(urlsplit(target.decode("utf-8", "surrogateescape")).path)
    if told.keys() == {"problems"}:  # of policies: which file, line and key
        assert told["problems"]
        return
    match "anthropic" if says_who and path.startswith(SHARED) else dialect_of(path):
        case "ollama":
            assert isinstance(told["error"], str)
        case "anthropic":
            assert told["type"] == "error"
            assert told["error"]["message"]
        case _:
            assert told["error"].keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=[" ".join(route) for route in ROUTES])
def test_routes(method: str, path: str, asked: Asked, thorough: bool) -> None:
    takes: Takes = ROUTES[method, path]
    count = (SLOW_EXAMPLES if takes.slow else EXAMPLES) * (THOROUGH if thorough else 1)

    @settings(ALL, max_examples=count, derandomize=not thorough)
    @given(requests(method, path, takes))
    def stands(sent: Sent) -> None:
        check(asked, sent, path, endless=takes.endless)

    stands()

    assert_well(asked)
    if method == "POST" and isinstance(takes.body, dict) and path not in OURS:
        assert asked.reached[path]
        assert asked.understood[path] or path in NOT_UNDERSTOOD


def test_anywhere_else(asked: Asked) -> None:
    @settings(ALL, max_examples=200)
    @given(anywhere())
    def stands(sent: Sent) -> None:
        check(asked, sent, endless=True)

    stands()

    assert_well(asked)


def assert_well(asked: Asked) -> None:
    seen = asked.wrong
    asked.wrong = [line for line in asked.url.said(*WRONG) if line.get("status") != 0]
    wrong = asked.wrong[len(seen) :]
    assert wrong == [], json.dumps(wrong, indent=1)[:5000]
    assert asked.process.exists()


def test_afterwards_all_is_as_before(asked: Asked) -> None:
    """The last of this file: nobody is served any more, nothing is held, and it still answers."""
    deadline_s = time.monotonic() + HANG_S
    while time.monotonic() < deadline_s:
        state = asked.state()
        busy = [b for b in state["backends"] if b["in_flight"] or b["waiting"]]
        more = asked.open_files() - asked.descriptors
        if not busy and more <= MOST_NEW_DESCRIPTORS:
            break
        time.sleep(0.05)
    assert busy == []
    assert more <= MOST_NEW_DESCRIPTORS

    asked.warm_up()

    assert asked.held_bytes() - asked.rss < MOST_GROWTH_BYTES
    assert_well(asked)
