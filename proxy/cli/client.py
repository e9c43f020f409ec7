"""Asks a running proxy, on behalf of the command line. Blocking, standard library only."""

import http.client
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any, Final

from proxy.cli.output import ClientError as ClientError  # what callers ask for here
from proxy.errors import reason_of
from proxy.files import read_small
from proxy.node.identity import BadIdentity, Identity, identity_of
from proxy.node.names import FRONT_VARIABLE, KEY_FILE_VARIABLE, NODE_HEADER
from proxy.observe.record import serving
from proxy.policy.load import load
from proxy.startup import url_of

# Loading a large model from a slow disk takes this long; a proxy that is gone is noticed at once.
ANSWER_S: Final = 1800.0
# What is only looked at is known at once.
LOOK_S: Final = 60.0
KEYS_BYTES: Final = 1 << 20
CHUNK_BYTES: Final = 1 << 16
KEY_VARIABLE: Final = "MOE_PROXY_API_KEY"
KEY_HINT: Final = f" (commands take it from {KEY_VARIABLE} in the environment)"
JSON: Final = {"Content-Type": "application/json"}


class Unreachable(ClientError):
    """No proxy answers."""


class Refused(ClientError):
    """The proxy's own refusal, with its HTTP status."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class Client:
    """One proxy. `key` is sent as Bearer token where the proxy asks for one."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        silent_s: float = ANSWER_S,
        identity: Identity | None = None,
        node: str | None = None,
    ) -> None:
        """`silent_s`: how long it may say nothing. `identity` is what we are to a proxy that is a
        node of a fleet; `node` is the one that a fleet's front is to ask. Raises ClientError for
        what is no address."""
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._silent_s = silent_s
        self._identity = identity or Identity()
        self._node = node  # None once it is known to be there
        _check_address(url)

    def get(self, path: str) -> Any:
        return self._ask("GET", path, silent_s=min(self._silent_s, LOOK_S))

    def put(self, path: str, body: Any) -> Any:
        return self._ask("PUT", path, body)

    def post(self, path: str) -> Any:
        return self._ask("POST", path)

    def open(
        self,
        method: str,
        path: str,
        data: bytes | IO[bytes] | None = None,
        headers: Mapping[str, str] = JSON,
        *,
        silent_s: float | None = None,
    ) -> Any:
        """A proxy's answer, to be read and closed. Raises ClientError for one that is an error, in
        its own words, and Nobody."""
        if self._node is not None:
            self._find_node(self._node)
        request = urllib.request.Request(
            self.url + path,
            data,
            {**self._headers, **self._identity.own_headers, **headers},
            method=method,
        )
        # Proxies of the environment are for the internet; ours is next door.
        tls = urllib.request.HTTPSHandler(context=self._identity.client_tls)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), tls)
        try:
            return opener.open(request, timeout=silent_s or self._silent_s)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error) from error
        except (OSError, http.client.HTTPException) as error:
            why = reason_of(error)
            raise Unreachable(
                f"nothing answers at {self.url} ({why}); start it with: moe-proxy serve, or say "
                "with --url where it is"
            ) from error

    def lines(
        self, method: str, path: str, data: bytes | None = None, *, silent_s: float | None = None
    ) -> Iterator[bytes]:
        """An answer, line by line as it comes; the last one may have no end. Raises ClientError,
        also where the proxy goes away before it has said all: half an answer is none."""
        with self.open(method, path, data, silent_s=silent_s) as answer:
            rest = b""
            # Not what iterates over lines: that takes a connection's end for the answer's.
            while chunk := self._more(answer):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (line + b"\n" for line in lines)
            if rest:
                yield rest

    def _find_node(self, node: str) -> None:
        """A proxy that is no front would do here what is meant for a node. Raises ClientError."""
        self._node = None
        nodes = self.get("/admin/state").get("nodes")
        if nodes is None:
            raise ClientError(
                f"what answers at {self.url} is one machine: there are no nodes; if it is of a "
                "fleet, say with --url or MOE_PROXY_URL where a front is (moe-proxy fleet status)"
            )
        names = [each["name"] for each in nodes]
        if node not in names:
            there = ", ".join(names) or "none"
            raise ClientError(f"there is no node {node!r} in this fleet; there is {there}")
        self._headers[NODE_HEADER] = node

    def _more(self, answer: Any) -> bytes:
        try:
            chunk = bytes(answer.read1(CHUNK_BYTES))
            if not chunk and answer.length:  # so much was still to come
                raise http.client.IncompleteRead(b"")
            return chunk
        except (OSError, http.client.HTTPException) as error:
            raise self.gone(error) from error

    def gone(self, error: Exception) -> ClientError:
        """The error for a proxy that ends in the middle of an answer."""
        early = isinstance(error, http.client.IncompleteRead)
        why = "in the middle of its answer" if early else reason_of(error)
        return ClientError(f"the proxy at {self.url} went away: {why}")

    def not_ours(self, what: str = "no JSON") -> ClientError:
        """The error for an answer that makes no sense."""
        return ClientError(f"what answers at {self.url} is not moe-proxy ({what})")

    def _refusal(self, error: urllib.error.HTTPError) -> ClientError:
        """In the proxy's words, in the shape of any protocol."""
        try:
            found = json.loads(error.read())["error"]
            said = str(found["message"] if isinstance(found, dict) else found)
            hint = KEY_HINT if error.code == HTTPStatus.UNAUTHORIZED else ""
            return Refused(said + hint, error.code)
        except (OSError, http.client.HTTPException) as gone:
            return self.gone(gone)
        except (ValueError, KeyError, TypeError):
            return self.not_ours(f"HTTP {error.code} {error.reason}")

    def _ask(
        self, method: str, path: str, body: Any = None, *, silent_s: float | None = None
    ) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with self.open(method, path, data, silent_s=silent_s) as answer:
            try:
                return json.loads(answer.read() or b"null")
            except (OSError, http.client.HTTPException) as error:
                raise self.gone(error) from error
            except ValueError as error:
                raise self.not_ours() from error


def model_path(name: str, verb: str) -> str:
    return f"/admin/models/{urllib.parse.quote(name, safe='/:')}/{verb}"


def default_url(env: Mapping[str, str] = os.environ) -> str:
    """Where the proxy that runs here says that it listens, or its machine's front where it is a
    node of a fleet; else where one would that was started without options."""
    if url := env.get("MOE_PROXY_URL"):
        return url
    # Also of policies with problems: the proxy that runs goes on by those before.
    policies = load(None, env).readable
    assert policies is not None
    found = serving(policies.catalog.state)
    here = found and (found.variables.get(FRONT_VARIABLE) or found.url)
    return here or url_of(policies.server.host, policies.server.port)


def default_identity(url: str, env: Mapping[str, str] = os.environ) -> Identity:
    """What we are to the proxy at `url`: as the environment says, else as that proxy has noted for
    those of this machine who may read its key. Raises ClientError."""
    if not env.get(KEY_FILE_VARIABLE):
        policies = load(None, env).readable
        found = serving(policies.catalog.state) if policies else None
        env = found.variables if found and found.url == url.rstrip("/") else {}
    try:
        return identity_of(env)
    except BadIdentity as error:
        raise ClientError(str(error)) from error


def default_key(env: Mapping[str, str] = os.environ) -> str | None:
    """The API key to use: from the environment, or the first of the local policies' own
    file that may change something."""
    if key := env.get(KEY_VARIABLE):
        return key
    policies = load(None, env).readable
    file: Path | None = policies.server.api_keys_file if policies else None
    try:
        text = read_small(file, KEYS_BYTES).decode("utf-8-sig", "replace") if file else ""
    except OSError:
        return None
    lines = (line.split() for line in text.splitlines())
    # A key, what it may, and its name: commands change things.
    return next((words[0] for words in lines if words and _commands(words)), None)


def _commands(words: Sequence[str]) -> bool:
    return not words[0].startswith("#") and words[1:2] != ["use"]


def _check_address(url: str) -> None:
    try:
        parts = urllib.parse.urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # no number for a port
        good = False
    if not good or not url.isprintable() or " " in url:
        raise ClientError(f"{url!r} is no address of a proxy; use http://HOST:PORT")
