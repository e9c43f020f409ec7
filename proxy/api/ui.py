"""The page at `/ui/`: files of ours, from memory. There is no data in them; what they show they ask
for as any client does."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import hdrs, web

from proxy.api.services import SERVICES
from proxy.api.wire import json_response
from proxy.errors import NotFound

FOLDER: Final = Path(__file__).parents[1] / "ui"
INDEX: Final = "index.html"
TYPES: Final = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
    "txt": "text/plain",
}
# Nothing from elsewhere, nothing that is written into the page, and in nobody's frame.
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    # It is asked for again each time, and costs nothing where it is the same.
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class File:
    body: bytes
    content_type: str
    tag: str


def add_routes(router: web.UrlDispatcher) -> None:
    router.add_get("/ui/needs-key", needs_key)
    add_page(router)


def add_page(router: web.UrlDispatcher) -> None:
    """Its files alone: behind what else is there."""
    page = Page(_read(FOLDER))
    router.add_get("/ui", page.moved)
    router.add_get("/ui/{file:.*}", page.file)


async def needs_key(request: web.Request) -> web.Response:
    """Whether the page has to ask for one: it shows nothing before."""
    server = request.app[SERVICES].policies.current.server
    return json_response({"needs_key": server.api_keys_file is not None})


class Page:
    """Its files by path."""

    def __init__(self, found: dict[str, File]) -> None:
        self._files = found

    async def moved(self, request: web.Request) -> web.StreamResponse:
        """Its files are named from the folder."""
        return web.Response(status=308, headers={"Location": "/ui/"})

    async def file(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["file"] or INDEX
        if (found := self._files.get(name)) is None:
            raise NotFound(f"there is no file {name!r} of the page")
        tag = f'"{found.tag}"'
        headers = {**HEADERS, "ETag": tag}
        if tag in request.headers.get(hdrs.IF_NONE_MATCH, ""):
            return web.Response(status=304, headers=headers)
        return web.Response(
            body=found.body, content_type=found.content_type, charset="utf-8", headers=headers
        )


def _read(folder: Path, below: str = "") -> dict[str, File]:
    """All files that have a type; the names come from the folder, so nobody leaves it."""
    found: dict[str, File] = {}
    for each in folder.iterdir():
        if each.is_dir():
            found |= _read(each, f"{below}{each.name}/")
        elif content_type := TYPES.get(each.name.rpartition(".")[2]):
            body = each.read_bytes()
            tag = hashlib.sha256(body).hexdigest()[:16]
            found[below + each.name] = File(body, content_type, tag)
    return found
