"""Which pages may use the proxy, by table, as browsers describe them."""

import re
from dataclasses import replace
from typing import Any, cast

import pytest

from proxy.api.origins import ACTIONS, PAGES, Visit, place_of, refusal, rules
from proxy.api.server import make_app
from tests.fuzz.bounds import little_time

HOST = "localhost:11434"
NOBODY = Visit(host=HOST, target=HOST, origin="", site="", place="")
BROWSER = "Mozilla/5.0 (X11; Linux x86_64)"
# GET routes that only look. A new one has to be put here, or into ACTIONS.
READS = {
    "/",
    "/health",
    "/v1/health",
    "/metrics",
    "/running",
    "/logs",
    "/logs/{model}",
    "/logs/stream",
    "/logs/stream/{model}",
    "/admin/state",
    "/admin/events",
    "/admin/policies/{file}",
    "/admin/policies/{file}/versions",
    "/admin/policies/{file}/versions/{version}",
    "/admin/requests",
    "/admin/backends/{id}/splits",
    "/admin/models/{name}/plan",
    "/api/version",
    "/api/status",
    "/api/tags",
    "/api/ps",
    "/v1/models",
    "/v1/models/{name}",
    "/v1/responses/{id}",
    "/responses/{id}",
    "/models",
    "/models/{name}",
}


def why(visit: Visit, *origins: str, names: tuple[str, ...] = ()) -> str | None:
    return refusal(rules(frozenset(names), origins), visit)


@pytest.mark.parametrize("place", ["", "page", "action"])
def test_a_program_that_says_nothing_may_do_everything(place: Any) -> None:
    assert why(replace(NOBODY, place=place, agent="curl/8.5.0")) is None
    assert why(replace(NOBODY, place=place, host="", target="")) is None


def test_a_foreign_host_is_refused_with_the_key_that_allows_it() -> None:
    text = why(replace(NOBODY, host="evil.test:11434", target="evil.test:11434"))

    assert text is not None
    assert "'evil.test:11434'" in text
    assert "server.hosts" in text
    assert why(replace(NOBODY, host="evil.test", target="evil.test"), names=("evil.test",)) is None


def test_the_host_of_an_absolute_request_line_counts_too() -> None:
    assert why(replace(NOBODY, target="evil.test")) is not None
    assert why(replace(NOBODY, host="evil.test")) is not None
    assert why(replace(NOBODY, host="", target="evil.test")) is not None


def test_a_foreign_host_is_refused_whatever_its_origin() -> None:
    """The page of a rebound name is of the same origin."""
    visit = Visit("evil.test", "evil.test", "http://evil.test", "same-origin", "")

    assert "server.hosts" in (why(visit, "*") or "")


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost",
        "https://localhost",
        "http://localhost:3000",
        "https://127.0.0.1:8443",
        "http://0.0.0.0:1",
        "http://[::1]:3000",
        "HTTP://LOCALHOST:3000",
        "app://obsidian.md",
        "app://-",
        "file://",
        "tauri://localhost",
        "vscode-webview://0a1b",
        "vscode-file://vscode-app",
    ],
)
def test_origins_that_ollama_allows(origin: str) -> None:
    assert why(replace(NOBODY, origin=origin, site="cross-site")) is None


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.test",
        "https://localhost.evil.test",
        "http://evil.localhost",
        "http://localhost:1@evil.test",
        "http://localhost:80:evil.test",
        "http://localhost:evil.test",
        "http://localhost/evil",
        "http://127.0.0.1.evil.test:80",
        "http://127.0.0.2",
        "http://localhost, http://localhost",
        "chrome-extension://abcdef",
        "moz-extension://abcdef",
        "null",
        "localhost",
        "nonsense",
        "://",
        "app://a b",
        "http://\udcff",
    ],
)
def test_other_origins_are_refused_with_what_allows_them(origin: str) -> None:
    text = why(replace(NOBODY, origin=origin, site="same-origin"))

    assert text is not None
    assert "server.origins" in text
    assert "OLLAMA_ORIGINS" in text
    assert text.isascii()


@pytest.mark.parametrize(
    ("pattern", "origin", "allowed"),
    [
        ("https://chat.example.com", "https://chat.example.com", True),
        ("https://chat.example.com", "http://chat.example.com", False),
        ("https://chat.example.com", "https://chat.example.com:8443", False),
        ("https://chat.example.com", "https://chatxexample.com", False),
        ("https://*.example.com", "https://a.b.example.com", True),
        ("https://*.example.com", "https://example.com", False),
        ("https://*.example.com", "https://a.example.com.evil.test", False),
        ("http://192.168.1.*", "http://192.168.1.7:3000", True),
        ("chrome-extension://*", "chrome-extension://abcdef", True),
        ("chrome-extension://*", "moz-extension://abcdef", False),
        ("null", "null", True),
        ("*", "null", True),
        ("*", "https://any.test", True),
        ("*", "chrome-extension://abcdef", True),
        ("*", "https://a.test, https://b.test", False),
        ("*", "\udcff", False),
        ("http://*", "null", False),
    ],
)
def test_patterns(pattern: str, origin: str, allowed: bool) -> None:
    assert (why(replace(NOBODY, origin=origin), pattern) is None) is allowed


@pytest.mark.parametrize(
    ("host", "origin", "same"),
    [
        ("box:11434", "http://box:11434", True),
        ("Box.:11434", "http://box:11434", True),
        ("box", "http://box", True),
        ("box:80", "http://box", True),
        ("box", "https://box", True),  # behind a server that speaks TLS
        ("box:443", "https://box", True),
        ("box:443", "http://box", False),
        ("box:11434", "http://box:3000", False),
        ("box:11434", "http://box", False),
        ("192.168.1.5:11434", "http://192.168.1.5:11434", True),
        ("[fd00::1]:11434", "http://[fd00::1]:11434", True),
        ("", "http://box", False),
    ],
)
def test_a_page_of_its_own_is_allowed(host: str, origin: str, same: bool) -> None:
    visit = replace(NOBODY, host=host, target=host, origin=origin)

    assert (why(visit, names=("box",)) is None) is same


@pytest.mark.parametrize(
    ("site", "allowed"),
    [
        ("same-origin", True),
        ("Same-Site", True),
        ("none", True),
        ("cross-site", False),
        ("something-new", False),
        ("none, cross-site", False),
    ],
)
def test_without_an_origin_the_site_decides(site: str, allowed: bool) -> None:
    assert (why(replace(NOBODY, site=site)) is None) is allowed


def test_a_link_may_open_a_page_for_people_and_nothing_else() -> None:
    link = Visit(HOST, HOST, "", "cross-site", "page", "navigate", "document")

    assert why(link) is None
    assert why(replace(link, dest="iframe")) is not None
    assert why(replace(link, mode="no-cors", dest="image")) is not None
    assert why(replace(link, place="")) is not None
    assert why(replace(link, place="action")) is not None


@pytest.mark.parametrize(
    ("referer", "allowed"),
    [
        ("", False),
        ("http://evil.test/page", False),
        ("http://192.168.1.5:11434.evil.test/", False),
        ("http://192.168.1.5:11434/ui/", True),
        ("http://localhost:3000/", True),
        ("http://evil.test/http://localhost:3000/", False),
    ],
)
def test_where_browsers_do_not_say_the_site_the_page_has_to(referer: str, allowed: bool) -> None:
    """They say it only to loopback and over https."""
    host = "192.168.1.5:11434"
    visit = Visit(host, host, "", "", "action", agent=BROWSER, referer=referer)

    assert (why(visit) is None) is allowed
    assert why(replace(visit, place="")) is None
    assert why(replace(visit, agent="curl/8.5.0")) is None


@pytest.mark.parametrize(
    ("method", "path", "place"),
    [
        ("GET", "/", "page"),
        ("GET", "/ui", "page"),
        ("GET", "/ui/app.js", "page"),
        ("POST", "/ui/", ""),
        ("GET", "/uix", ""),
        ("GET", "/unload", "action"),
        ("HEAD", "/unload", "action"),
        ("GET", "/upstream/m/slots", "action"),
        ("HEAD", "/lora-adapters", "action"),
        ("GET", "/api/tags", ""),
        ("POST", "/upstream/m/v1/chat/completions", ""),
    ],
)
def test_places(method: str, path: str, place: str) -> None:
    assert place_of(method, path) == place


def test_every_get_is_known_to_look_or_to_act() -> None:
    routes = make_app(cast(Any, None)).router.routes()
    paths = {
        re.sub(r":[^}]*", "", route.resource.canonical)
        for route in routes
        if route.resource and route.method in ("GET", "*")
    }
    acting = {path for path in paths if place_of("GET", path) == "action"}

    assert {path.partition("{")[0] for path in acting} == set(ACTIONS)
    assert {path for path in paths - acting if not path.startswith(PAGES)} == READS


def test_a_page_cannot_choose_an_origin_that_takes_long_to_compare() -> None:
    """With each text tried at each place, 800 characters took 19 s, and 8,000 would take a week."""
    patterns = ("https://*.*.example.com", "*a*a*a*a*b", "*a*b*")
    with little_time():
        text = why(replace(NOBODY, origin="https://" + "a" * 8000), *patterns[:2])

    assert text is not None
    assert why(replace(NOBODY, origin="https://x.a.b.example.com"), *patterns) is None
    assert why(replace(NOBODY, origin="https://example.com"), patterns[0]) is not None
    assert why(replace(NOBODY, origin="app-x://a-b-c"), patterns[2]) is None


@pytest.mark.parametrize(
    ("referer", "allowed"),
    [
        ("https://llm.example.com/ui/", True),  # its own
        ("http://localhost:3000/", True),
        ("https://blog.example.com/post", False),
        ("https://blog.example.com", False),
        ("", False),
    ],
)
def test_a_neighbour_has_nothing_done_by_an_image(referer: str, allowed: bool) -> None:
    """A page of another host of the same site, behind a web server that passes on what it says."""
    host = "llm.example.com"
    image = Visit(host, host, "", "same-site", "action", agent=BROWSER, referer=referer)

    assert (why(image, names=(host,)) is None) is allowed
    assert (why(replace(image, site="Same-Site"), names=(host,)) is None) is allowed
    assert why(replace(image, site="same-origin"), names=(host,)) is None
    assert why(replace(image, place=""), names=(host,)) is None, "it may look"
