"""Asks a running proxy to pull and make models, on behalf of the command line. Blocking."""

import json
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from proxy.cli.client import Client, ClientError, Unreachable
from proxy.hub.progress import Line
from proxy.node.identity import Identity

# Between two lines of a pull or of a quantisation: whoever is gone is noticed at once.
SILENT_S = 3600.0


class Remote:
    """One proxy. `key` is sent as Bearer token where the proxy asks for one."""

    def __init__(self, url: str, key: str | None, identity: Identity | None = None) -> None:
        """`identity` as for `Client`."""
        self._client = Client(url, key=key, silent_s=SILENT_S, identity=identity)

    @property
    def is_local(self) -> bool:
        """Whether it runs on this machine."""
        host = urllib.parse.urlsplit(self._client.url).hostname
        return host in ("127.0.0.1", "localhost", "::1")

    def lines(self, path: str, body: Mapping[str, Any]) -> Iterator[Line]:
        """The lines that a POST is answered with. Raises ClientError, also for one that is told."""
        try:
            for raw in self._client.lines("POST", path, json.dumps(body).encode()):
                line: Line = json.loads(raw)
                if "error" in line:
                    raise ClientError(str(line["error"]))
                yield line
        except (ValueError, TypeError) as error:
            raise self._client.not_ours() from error

    def has_blob(self, digest: str) -> bool:
        try:
            self._client.open("HEAD", f"/api/blobs/{digest}").close()
        except Unreachable:
            raise
        except ClientError:
            return False
        return True

    def upload(self, digest: str, file: Path) -> None:
        size = str(file.stat().st_size)
        with file.open("rb") as data:
            headers = {"Content-Type": "application/octet-stream", "Content-Length": size}
            self._client.open("POST", f"/api/blobs/{digest}", data, headers).close()
