"""Asks a running proxy, on behalf of the command line. Blocking, standard library only."""

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proxy.policy.load import load

# Loading a large model from a slow disk takes this long; a proxy that is gone is noticed at once.
ANSWER_S = 1800.0


class ClientError(Exception):
    """What to tell the person, in one line."""


class Client:
    """One proxy. `key` is sent as Bearer token where the proxy asks for one."""

    def __init__(self, url: str, *, key: str | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise ClientError(f"{url!r} is no address of a proxy; use http://HOST:PORT")
        self.url = url.rstrip("/")
        self._key = key

    def get(self, path: str) -> Any:
        return self._ask("GET", path)

    def put(self, path: str, body: Any) -> Any:
        return self._ask("PUT", path, body)

    def post(self, path: str) -> Any:
        return self._ask("POST", path)

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        # Proxies of the environment are for the internet; ours is next door.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=ANSWER_S) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                raise ClientError(_message(error)) from error
        except json.JSONDecodeError as error:
            raise ClientError(f"what answers at {self.url} is not moe-proxy") from error
        except (urllib.error.URLError, OSError) as error:
            raise ClientError(
                f"nothing answers at {self.url} ({_reason(error)}); start it with: moe-proxy serve"
            ) from error


def model_path(name: str, verb: str) -> str:
    return f"/admin/models/{urllib.parse.quote(name, safe='/:')}/{verb}"


def default_url(env: Mapping[str, str] = os.environ) -> str:
    """Where a proxy that was started here, without options, listens."""
    if url := env.get("MOE_PROXY_URL"):
        return url
    policies = load(None, env).policies
    if policies is None:
        raise ClientError(
            "the policies here have problems (moe-proxy check names them), so nobody knows where a "
            "proxy listens; use --url"
        )
    return url_of(policies.server.host, policies.server.port)


def url_of(host: str, port: int) -> str:
    """The URL for a listening address; one that means every interface is reached on loopback."""
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def default_key(env: Mapping[str, str] = os.environ) -> str | None:
    """The API key to use: from the environment, or the first of the local policies' own file."""
    if key := env.get("MOE_PROXY_API_KEY"):
        return key
    policies = load(None, env).policies
    file: Path | None = policies.server.api_keys_file if policies else None
    try:
        lines = file.read_text().splitlines() if file else []
    except OSError:
        return None
    return next((line.strip() for line in lines if line.strip() and line[0] != "#"), None)


def _message(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read())["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {error.code} {error.reason}"


def _reason(error: OSError) -> str:
    reason = getattr(error, "reason", error)
    return str(getattr(reason, "strerror", None) or reason).lower()
