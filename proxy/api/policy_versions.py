"""The texts that policy files had before they were replaced over HTTP: the last ones are kept, to
go back to."""

import hashlib
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import structlog

from proxy.errors import NotFound, reason_of
from proxy.files import read_small
from proxy.policy.sources import MOST_BYTES

log = structlog.get_logger()

KEPT: Final = 10
_NAME: Final = re.compile(r"[0-9]{8}T[0-9]{12}Z")


class PolicyVersions:
    """In a folder of the proxy's own, `catalog.state`; what is in a policy is nobody else's to
    read."""

    def __init__(self, state: Path, file: Path) -> None:
        # Two folders may have files of one name.
        where = hashlib.sha256(os.fsencode(file)).hexdigest()[:8]
        self._state, self._folder = state, state / "policies" / f"{where}-{file.name}"

    def keep(self, text: bytes) -> None:
        """One more version. A full disk keeps nobody from saving: then it is only in the log."""
        try:
            # The folder around it is made at the start, or is not to be.
            self._state.stat()
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            names = self._names()
            if names and read_small(self._folder / names[0], MOST_BYTES) == text:
                return
            name = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}Z"
            descriptor = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(text)
            for old in self._names()[KEPT:]:
                (self._folder / old).unlink(missing_ok=True)
        except OSError as error:
            log.warning("policy_version_not_kept", reason=reason_of(error))

    def all(self) -> list[dict[str, Any]]:
        """{"id", "at", "bytes"} of each, newest first."""
        found = []
        for name in self._names():
            at = datetime.strptime(name, "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)
            try:
                size = (self._folder / name).stat().st_size
            except OSError:
                continue  # it has made way for a newer one just now
            found.append({"id": name, "at": at.isoformat(), "bytes": size})
        return found

    def read(self, version: str) -> bytes:
        """Raises NotFound."""
        if not _NAME.fullmatch(version):
            raise NotFound(f"there is no version {version!r}")
        try:
            return read_small(self._folder / version, MOST_BYTES)
        except OSError as error:
            raise NotFound(f"there is no version {version!r}: {reason_of(error)}") from error

    def _names(self) -> list[str]:
        try:
            names = [each.name for each in self._folder.iterdir() if _NAME.fullmatch(each.name)]
        except OSError:
            return []
        return sorted(names, reverse=True)
