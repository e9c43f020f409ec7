"""Asks a running proxy to pull and make models, on behalf of the command line. Blocking."""

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from proxy.client import ClientError
from proxy.hub.lines import Line

# Between two lines of a pull or of a quantisation: whoever is gone is noticed at once.
SILENT_S = 3600.0


class Nobody(ClientError):
    """No proxy answers."""


class Remote:
    """One proxy. `key` is sent as Bearer token where the proxy asks for one."""

    def __init__(self, url: str, key: str | None) -> None:
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    @property
    def is_local(self) -> bool:
        """Whether it runs on this machine."""
        return urllib.parse.urlsplit(self.url).hostname in ("127.0.0.1", "localhost", "::1")

    def lines(self, path: str, body: Mapping[str, Any]) -> Iterator[Line]:
        """The lines that a POST is answered with. Raises ClientError, also for one that is told."""
        data = json.dumps(body).encode()
        with self._open("POST", path, data, {"Content-Type": "application/json"}) as answer:
            for raw in answer:
                line: Line = json.loads(raw)
                if "error" in line:
                    raise ClientError(str(line["error"]))
                yield line

    def has_blob(self, digest: str) -> bool:
        try:
            self._open("HEAD", f"/api/blobs/{digest}", None, {}).close()
        except Nobody:
            raise
        except ClientError:
            return False
        return True

    def upload(self, digest: str, file: Path) -> None:
        size = str(file.stat().st_size)
        with file.open("rb") as data:
            headers = {"Content-Type": "application/octet-stream", "Content-Length": size}
            self._open("POST", f"/api/blobs/{digest}", data, headers).close()

    def _open(
        self, method: str, path: str, data: bytes | IO[bytes] | None, headers: Mapping[str, str]
    ) -> Any:
        request = urllib.request.Request(
            self.url + path, data, {**self._headers, **headers}, method=method
        )
        # Proxies of the environment are for the internet; ours is next door.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            return opener.open(request, timeout=SILENT_S)
        except urllib.error.HTTPError as error:
            with error:
                raise ClientError(_message(error)) from error
        except OSError as error:
            raise Nobody(f"nothing answers at {self.url}") from error


def _message(error: urllib.error.HTTPError) -> str:
    try:
        found = json.loads(error.read())["error"]
        return str(found["message"] if isinstance(found, dict) else found)
    except (ValueError, KeyError, TypeError):
        return f"HTTP {error.code} {error.reason}"
