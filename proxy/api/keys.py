"""Who may use the proxy: API keys, one a line in a file, taken as Bearer token, `x-api-key` or
Basic password.
"""

import base64
import binascii
import hmac
from collections.abc import Mapping
from pathlib import Path

import structlog

from proxy.errors import Unauthorized

log = structlog.get_logger()


class ApiKeys:
    """The keys of one file, read again when it changes. One that is unreadable lets nobody in."""

    def __init__(self) -> None:
        self._seen: tuple[Path, int] | None = None
        self._keys: tuple[bytes, ...] = ()

    def check(self, headers: Mapping[str, str], file: Path | None) -> None:
        """Raise Unauthorized unless the request carries a key. Without a file there is nothing to
        ask for.
        """
        if file is None:
            return
        keys = self._read(file)
        given = _given(headers)
        # All are compared, all in the same time: how long it takes tells nothing about the keys.
        matches = [hmac.compare_digest(given, key) for key in keys]
        if not any(matches):
            what = "this API key is not known" if given else "an API key is needed"
            raise Unauthorized(f"{what}; send it as Authorization: Bearer KEY, or as x-api-key")

    def _read(self, file: Path) -> tuple[bytes, ...]:
        try:
            seen = file, file.stat().st_mtime_ns
            if seen != self._seen:
                lines = (line.strip() for line in file.read_bytes().splitlines())
                self._keys = tuple(line for line in lines if line and not line.startswith(b"#"))
                self._seen = seen
                log.info("api_keys_read", file=str(file), keys=len(self._keys))
        except OSError as error:
            if self._seen is not None or self._keys:
                log.error("api_keys_unreadable", file=str(file), reason=str(error))
            self._seen, self._keys = None, ()
        return self._keys


def _given(headers: Mapping[str, str]) -> bytes:
    scheme, _, credentials = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return _as_sent(credentials)
    if scheme.lower() == "basic":
        try:
            decoded = base64.b64decode(_as_sent(credentials), validate=True)
        except binascii.Error:
            return b""
        return decoded.partition(b":")[2]
    return _as_sent(headers.get("x-api-key", ""))


def _as_sent(text: str) -> bytes:
    """The bytes of a header, which need not be UTF-8."""
    return text.strip().encode("utf-8", "surrogateescape")
