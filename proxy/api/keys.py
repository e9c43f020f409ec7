"""Who may use the proxy: API keys, one a line in a file, taken as Bearer token, `x-api-key` or
Basic password.
"""

import base64
import hmac
import os
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import structlog

from proxy.api.key_file import Key, parse_keys
from proxy.api.key_use import KeyUse
from proxy.errors import Forbidden, TooManyRequests, Unauthorized
from proxy.files import check_regular, read_small

log = structlog.get_logger()

MAX_FILE_BYTES: Final = 1 << 20


class ApiKeys:
    """The keys of one file, read again when it changes. One that is unreadable lets nobody in."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        # What changes: the file as it was read last, its keys, what was made of them, and whether
        # somebody was told that everybody can read it.
        self._seen: tuple[object, ...] | None = None
        self._keys: tuple[Key, ...] = ()
        self._uses: dict[bytes, KeyUse] = {}
        self._warned: Path | None = None

    def check(
        self, headers: Mapping[str, str], file: Path | None, *, admin: bool = False
    ) -> str | None:
        """The name of the key that the request carries; None where none is asked for, without a
        file. Raises Unauthorized if it carries none, Forbidden if that may not do what needs an
        `admin`, TooManyRequests past its limit.
        """
        if file is None:
            return None
        key = self._named(headers, file)
        if key is None:
            what = "this API key is not known" if _given(headers) else "an API key is needed"
            raise Unauthorized(f"{what}; send it as Authorization: Bearer KEY, or as x-api-key")
        wait_s = self._uses[key.secret].take(key.per_minute, self._now_s())
        if wait_s:
            raise TooManyRequests(
                f"this API key may make {key.per_minute} requests a minute", retry_after_s=wait_s
            )
        if admin and key.scope != "admin":
            raise Forbidden(f"this API key may {key.scope} models, not change the machine")
        return key.name

    def knows(self, headers: Mapping[str, str], file: Path | None) -> bool:
        """Whether the key that a request came with is one still. Counts as no use of it."""
        return file is None or self._named(headers, file) is not None

    def _named(self, headers: Mapping[str, str], file: Path) -> Key | None:
        given = _given(headers)
        # All are compared, all in the same time: how long it takes tells nothing about the keys.
        matches = [key for key in self._read(file) if hmac.compare_digest(given, key.secret)]
        return matches[0] if matches else None

    def forget(self) -> None:
        """Read the file anew with the next request, whether or not it looks like another one."""
        self._seen = None

    def usage(self) -> list[dict[str, Any]]:
        """What was made of each key since the proxy runs, or the key is there."""
        found = []
        for key in self._keys:
            use = self._uses[key.secret]
            found.append(
                {
                    "name": key.name,
                    "scope": key.scope,
                    "requests_per_minute": key.per_minute,
                    "requests": use.requests,
                    "refused": use.refused,
                    "last_used": use.last_used.isoformat() if use.last_used else None,
                }
            )
        return found

    def _read(self, file: Path) -> tuple[Key, ...]:
        try:
            status = check_regular(file)
            # Not its time alone: a file that is put in its place may have the same.
            seen = (file, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns,
                    status.st_ctime_ns)  # fmt: skip
            if seen != self._seen:
                keys, problems = parse_keys(read_small(file, MAX_FILE_BYTES))
                self._seen = seen
                self._use(keys)
                self._tell(file, status, problems)
        except OSError as error:
            if self._seen is not None or self._keys:
                log.error("api_keys_unreadable", file=str(file), reason=str(error))
            self._seen, self._keys = None, ()
        return self._keys

    def _use(self, keys: tuple[Key, ...]) -> None:
        known, now_s = self._uses, self._now_s()
        self._uses = {
            key.secret: known.get(key.secret) or KeyUse(key.per_minute, now_s) for key in keys
        }
        self._keys = keys

    def _tell(self, file: Path, status: os.stat_result, problems: tuple[str, ...]) -> None:
        log.info("api_keys_read", file=str(file), keys=len(self._keys))
        for problem in problems:
            log.warning("api_keys_line_not_used", file=str(file), problem=problem)
        if status.st_mode & stat.S_IROTH and self._warned != file:
            self._warned = file
            hint = f"chmod 600 {file}"
            log.warning("api_keys_readable_by_everybody", file=str(file), hint=hint)


def _given(headers: Mapping[str, str]) -> bytes:
    scheme, _, credentials = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return _bytes(credentials)
    if scheme.lower() == "basic":
        try:
            decoded = base64.b64decode(_bytes(credentials), validate=True)
        except ValueError:
            return b""
        return decoded.partition(b":")[2]
    return _bytes(headers.get("x-api-key", ""))


def _bytes(text: str) -> bytes:
    """A header's value as it was sent, which need not be UTF-8."""
    return text.strip().encode("utf-8", "surrogateescape")
