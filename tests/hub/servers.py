"""A real server on loopback that speaks Ollama's registry protocol and Hugging Face's, and fails as
it is told to.
"""

import asyncio
import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class Hub:
    """What the server has, how it misbehaves, and what it was asked for."""

    url: str = ""
    host: str = ""
    manifests: dict[str, bytes] = field(default_factory=dict)  # "ns/model:tag"
    blobs: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(
        default_factory=dict
    )  # "org/repo" -> path -> content
    redirect: bool = False
    redirect_to: str = ""  # another server for what is redirected,
    redirects_manifests: bool = True  # also manifests
    ranges: bool = True
    spoil: bool = False  # the last byte of what is sent is another one
    cut_after: list[int] = field(default_factory=list)  # bytes after which the next answers break
    statuses: list[int] = field(default_factory=list)  # what the next blobs are answered with
    gate: asyncio.Event | None = None  # a blob's second half waits for it
    half: asyncio.Event = field(default_factory=asyncio.Event)  # the first half is out
    asked: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    from_bytes: list[int] = field(default_factory=list)  # where the ranges began

    def add_model(
        self, name: str, layers: list[tuple[str, bytes]], config: Mapping[str, Any]
    ) -> None:
        """A model of a registry; layers are media types (their last part) and contents."""
        entries = []
        for kind, data in layers:
            self.blobs[digest(data)] = data
            media_type = f"application/vnd.ollama.image.{kind}"
            entries.append({"mediaType": media_type, "digest": digest(data), "size": len(data)})
        blob = json.dumps(config).encode()
        self.blobs[digest(blob)] = blob
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "digest": digest(blob),
                "size": len(blob),
            },
            "layers": entries,
        }
        self.manifests[name] = json.dumps(manifest).encode()

    async def manifest(self, request: web.Request) -> web.Response:
        info = request.match_info
        self.asked["manifest"] += 1
        if self.redirect_to and self.redirects_manifests and "cdn" not in request.path:
            raise web.HTTPTemporaryRedirect(f"{self.redirect_to}/cdn{request.path}")
        data = self.manifests.get(f"{info['ns']}/{info['model']}:{info['tag']}")
        return web.Response(body=data) if data else web.Response(status=404)

    async def blob(self, request: web.Request) -> web.StreamResponse:
        wanted = request.match_info["digest"]
        if self.redirect and "cdn" not in request.path:
            raise web.HTTPTemporaryRedirect(f"{self.redirect_to or self.url}/cdn/{wanted}")
        return await self._send(request, wanted, self.blobs.get(wanted))

    async def info(self, request: web.Request) -> web.Response:
        repository = f"{request.match_info['org']}/{request.match_info['repo']}"
        self.asked["info"] += 1
        if repository not in self.files:
            return web.json_response(
                {"error": "Repository not found"},
                status=404,
                headers={"X-Error-Code": "RepoNotFound"},
            )
        siblings = [
            {
                "rfilename": path,
                "size": len(data),
                "blobId": "0" * 40,
                "lfs": {"sha256": digest(data)[7:], "size": len(data), "pointerSize": 135},
            }
            for path, data in self.files[repository].items()
        ]
        return web.json_response({"id": repository, "sha": COMMIT, "siblings": siblings})

    async def resolve(self, request: web.Request) -> web.StreamResponse:
        """As the site does it: an answer about the file, and a redirect to where its bytes are."""
        info = request.match_info
        data = self.files[f"{info['org']}/{info['repo']}"].get(info["path"])
        assert info["commit"] == COMMIT
        if data is None:
            return web.Response(status=404, headers={"X-Error-Code": "EntryNotFound"})
        self.blobs[digest(data)] = data
        return web.Response(
            status=302,
            headers={
                # Another host, as the real one's.
                "Location": f"http://localhost:{request.url.port}/cdn/{digest(data)}",
                "X-Repo-Commit": COMMIT,
                "X-Linked-Size": str(len(data)),
                "X-Linked-Etag": f'"{digest(data)[7:]}"',
            },
        )

    async def _send(
        self, request: web.Request, name: str, data: bytes | None
    ) -> web.StreamResponse:
        self.asked[name] += 1
        if self.statuses:
            return web.Response(status=self.statuses.pop(0))
        if data is None:
            return web.Response(status=404)
        if self.spoil:
            data = data[:-1] + bytes([data[-1] ^ 1])
        begin = request.http_range.start or 0 if self.ranges else 0
        if begin >= len(data):
            return web.Response(status=416)
        self.from_bytes.append(begin)
        response = web.StreamResponse(status=206 if self.ranges else 200)
        response.content_length = len(data) - begin
        if self.ranges:
            response.headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        await response.prepare(request)
        end = min(len(data), begin + self.cut_after.pop(0)) if self.cut_after else len(data)
        middle = (begin + end) // 2
        for part in (data[begin:middle], data[middle:end]):
            await response.write(part)
            self.sent[name] += len(part)
            self.half.set()
            if self.gate:
                await self.gate.wait()
        if end < len(data):
            assert request.transport is not None
            request.transport.close()
        return response


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[Hub]:
    hub = Hub()
    app = web.Application()
    app.router.add_get("/v2/{ns}/{model}/manifests/{tag}", hub.manifest)
    app.router.add_get("/v2/{ns}/{model}/blobs/{digest}", hub.blob)
    app.router.add_get("/cdn/v2/{ns}/{model}/manifests/{tag}", hub.manifest)
    app.router.add_get("/cdn/{digest}", hub.blob)
    app.router.add_get("/api/models/{org}/{repo}", hub.info)
    app.router.add_get("/{org}/{repo}/resolve/{commit}/{path:.+}", hub.resolve)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    hub.url, hub.host = f"http://127.0.0.1:{port}", f"127.0.0.1:{port}"
    try:
        yield hub
    finally:
        await runner.cleanup()
