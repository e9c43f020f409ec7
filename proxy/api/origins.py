"""Which web pages may use the proxy: decided by what browsers say of a page, in headers that it
cannot change.

Programs that are no browsers say nothing of this kind, and are not asked.
"""

import re
from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import Final, Literal

from proxy.api.hosts import is_ours, split_host

# As in Ollama: web servers of this machine, and apps that are made of web pages.
ALLOWED: Final = (
    *(
        f"{scheme}://{host}{port}"
        for scheme in ("http", "https")
        for host in ("localhost", "127.0.0.1", "0.0.0.0", "[::1]")
        for port in ("", ":*")
    ),
    *("app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*"),
)
# Ways in which one gets here that are not from a page of another site.
OWN_SITES: Final = frozenset({"", "same-origin", "same-site", "none"})
# A neighbour, as blog.example.com is of llm.example.com, is no friend: it may look as any page may,
# and not have things done.
NEAR: Final = "same-site"
# Pages for people, which a link on any page may open.
PAGES: Final = ("/ui", "/ui/")
# What does something although it is a GET: these unload and load models.
ACTIONS: Final = ("/unload", "/upstream/", "/props", "/slots", "/lora-adapters")
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}

# Web pages cannot choose their origin; of apps there is no saying what they send.
_WEB: Final = re.compile(r"(https?)://((?:[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?)")
_APP: Final = re.compile(r"(?!https?:)[a-z][a-z0-9+.-]*://[!-+\--~]*")

Place = Literal["", "page", "action"]


@dataclass(frozen=True, slots=True)
class Rules:
    """`names` are hosts beside loopback and addresses, `origins` matches those that are allowed."""

    names: Set[str]
    origins: re.Pattern[str]


@dataclass(frozen=True, slots=True)
class Visit:
    """What a request says of whom it asks and where it comes from: headers as they came, several of
    one name joined by ", ", "" where there is none.

    `target` is the host in an absolute request line, else the same as `host`. What follows `site`
    is asked for only where it decides.
    """

    host: str
    target: str
    origin: str
    site: str  # Sec-Fetch-Site
    place: Place
    mode: str = ""  # Sec-Fetch-Mode
    dest: str = ""  # Sec-Fetch-Dest
    agent: str = ""  # User-Agent
    referer: str = ""


def rules(names: Set[str], origins: Iterable[str]) -> Rules:
    """`origins` as in `server.origins`."""
    patterns = (_pattern(origin) for origin in (*ALLOWED, *origins))
    return Rules(names, re.compile("|".join(patterns)))


def place_of(method: str, path: str) -> Place:
    """What is at a path that deserves a closer look."""
    if method not in ("GET", "HEAD"):
        return ""
    if path == "/" or path.startswith(PAGES[1]) or path == PAGES[0]:
        return "page"
    return "action" if path.startswith(ACTIONS) else ""


def refusal(rules: Rules, visit: Visit) -> str | None:
    """Why a request is refused, in one sentence for people; None if it is not."""
    for host in (visit.host, visit.target):
        if host and not is_ours(host, rules.names):
            return (
                f"{_shown(host)} is not a name of this machine (Host header); where it is to be "
                "called so, server.hosts in its policies has to list the name"
            )
    if visit.origin:
        return None if _may(rules, visit, visit.origin) else _not_allowed(_shown(visit.origin))
    if visit.site.lower() not in OWN_SITES and not _is_opened(visit):
        return _not_allowed("another site")
    if visit.site.lower() == NEAR and visit.place == "action" and not _refers(rules, visit):
        return _not_allowed("another host of the same site, which does not say which,")
    if _acts_unasked(rules, visit):
        return (
            "a browser asks without saying for which page, as it does where an address is neither "
            "loopback nor https; open this at localhost, or with another program"
        )
    return None


def _may(rules: Rules, visit: Visit, origin: str) -> bool:
    origin = origin.lower()
    web = _WEB.fullmatch(origin)
    if not web and origin != "null" and not _APP.fullmatch(origin):
        return False
    return rules.origins.fullmatch(origin) is not None or (
        web is not None and _same(web[1], web[2], visit.host)
    )


def _same(scheme: str, authority: str, host: str) -> bool:
    """Whether a page's own server is the one that is asked."""
    page, asked = split_host(authority), split_host(host)
    if page is None or asked is None:
        return False
    default = _DEFAULT_PORTS[scheme]
    return (page[0], page[1] or default) == (asked[0], asked[1] or default)


def _is_opened(visit: Visit) -> bool:
    """Whether somebody follows a link to a page for people, and it is not put into another page."""
    return (visit.place, visit.mode, visit.dest) == ("page", "navigate", "document")


def _acts_unasked(rules: Rules, visit: Visit) -> bool:
    """Whether a browser does something that nobody may have asked it for. Where the address is
    neither loopback nor https, browsers do not say which site asks, so the page has to say it."""
    if visit.site or visit.place != "action" or not visit.agent.startswith("Mozilla/"):
        return False
    return not _refers(rules, visit)


def _refers(rules: Rules, visit: Visit) -> bool:
    """Whether it says that a page asks which may."""
    return _may(rules, visit, "/".join(visit.referer.split("/", 3)[:3]))


def _not_allowed(who: str) -> str:
    return (
        f"pages of {who} may not use this, unless server.origins in its policies or OLLAMA_ORIGINS "
        "lists their origin"
    )


def _pattern(origin: str) -> str:
    """Each text between two `*` is where it first comes, and is looked for no second time: whoever
    asks chooses the origin, and trying all places for all of them would take hours."""
    first, *rest = map(re.escape, origin.split("*"))
    if not rest:
        return first
    *between, last = rest
    return first + "".join(f"(?>.*?{text})" for text in between) + f".*{last}"


def _shown(text: str) -> str:
    """Text of a stranger, such that it can be put into JSON and a log."""
    return ascii(text if len(text) <= 100 else text[:97] + "...")
