"""Downloads one blob: resumed where it was cut, checked against its digest, cleaned up after."""

import asyncio
import errno
import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import aiohttp
import structlog

from proxy.catalog.manifest import hex_of
from proxy.errors import reason_of
from proxy.hub.addresses import InnerAddress
from proxy.hub.progress import PullFailed, Report, progress
from proxy.threads import STORE, WHOLE_MODELS

log = structlog.get_logger()

CHUNK_BYTES: Final = 1 << 20
# Attempts in a row that bring nothing; each byte that arrives starts the count anew.
MAX_TRIES: Final = 6
BACKOFF_S: Final = 0.5
MAX_BACKOFF_S: Final = 10.0
# A connection that brings nothing for this long is given up.
STALLED_S: Final = 30.0
REPORT_EVERY_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Remote:
    """A blob that a server has. `digest` is "sha256:..." of its `size` bytes."""

    url: str
    digest: str
    size: int
    headers: Mapping[str, str] = field(default_factory=dict)


class _Cut(Exception):
    """The connection broke, or the server asks to come again later."""


async def fetch(
    session: aiohttp.ClientSession, remote: Remote, target: Path, report: Report
) -> None:
    """Bring the blob to `target`, of which a part may already be beside it from another time.

    Raises PullFailed; a blob with another digest, and one that finds no room, is removed then.
    Cancelled, it leaves the part that is here for the next time.
    """
    partial = partial_of(target)
    await STORE.run(partial.parent.mkdir, parents=True, exist_ok=True)
    download = await WHOLE_MODELS.run(_Download, remote, partial)
    try:
        await _all(session, download, report)
        await WHOLE_MODELS.run(download.sync)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise PullFailed(f"cannot write {partial}: {reason_of(error)}") from error
        await STORE.run(partial.unlink, missing_ok=True)
        raise PullFailed(
            f"no space left on device: {remote.digest[7:19]} has {remote.size} bytes, of which "
            f"{download.completed} found room; what was written of it is removed again"
        ) from error
    finally:
        await STORE.run(download.close)
    if download.digest != remote.digest:
        await STORE.run(partial.unlink, missing_ok=True)
        raise PullFailed(
            f"digest mismatch, file must be downloaded again: want {remote.digest}, got "
            f"{download.digest}"
        )
    await STORE.run(partial.replace, target)


def partial_of(target: Path) -> Path:
    return target.with_name(target.name + "-partial")


class _Download:
    """The part of a blob that is here. Its methods block; one at a time."""

    def __init__(self, remote: Remote, partial: Path) -> None:
        self.remote = remote
        # What changes: how many bytes are here, and their hash.
        self.completed = 0
        self._hash = hashlib.sha256()
        self._file: BinaryIO = partial.open("a+b")
        self._file.seek(0)
        while data := self._file.read(CHUNK_BYTES):
            self._hash.update(data)
            self.completed += len(data)
        if self.completed > remote.size:
            self.restart()

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def write(self, data: bytes) -> None:
        self._file.write(data)
        # So that what `completed` says is what a later attempt finds.
        self._file.flush()
        self._hash.update(data)
        self.completed += len(data)

    def restart(self) -> None:
        self._file.truncate(0)
        self._hash = hashlib.sha256()
        self.completed = 0

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        try:
            self._file.close()
        except OSError:
            # Python tries once more to write what found no room; that has been told.
            log.debug("partial_not_flushed", digest=self.remote.digest)


async def _all(session: aiohttp.ClientSession, download: _Download, report: Report) -> None:
    tries = 0
    while download.completed < download.remote.size:
        before = download.completed
        try:
            await _attempt(session, download, report)
        except (_Cut, aiohttp.ClientError, TimeoutError, InnerAddress) as error:
            if led_inside(error):
                raise PullFailed(unreachable(download.remote.url, error)) from error
            tries = 1 if download.completed > before else tries + 1
            if tries >= MAX_TRIES:
                raise PullFailed(unreachable(download.remote.url, error)) from error
            log.info("download_cut", digest=download.remote.digest, at=download.completed)
            await asyncio.sleep(min(BACKOFF_S * 2 ** (tries - 1), MAX_BACKOFF_S))
    report(progress(download.remote.digest, download.remote.size, download.completed))


async def _attempt(session: aiohttp.ClientSession, download: _Download, report: Report) -> None:
    remote = download.remote
    # Also the first request asks for a range: some servers give large files in no other way.
    wanted = {"Range": f"bytes={download.completed}-", "Accept-Encoding": "identity"}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=STALLED_S, sock_read=STALLED_S)
    async with session.get(
        remote.url, headers={**remote.headers, **wanted}, timeout=timeout
    ) as answer:
        if answer.status == 200 and download.completed:
            await STORE.run(download.restart)
        elif answer.status == 416:
            await STORE.run(download.restart)
            raise _Cut("the server has another length for it")
        elif answer.status in (408, 429) or answer.status >= 500:
            raise _Cut(f"HTTP {answer.status} {answer.reason}")
        elif answer.status not in (200, 206):
            raise PullFailed(
                f"{_host(remote.url)} refuses {remote.digest[:19]}: {describe_response(answer)}"
            )
        reported_s = 0.0
        async for data in answer.content.iter_chunked(CHUNK_BYTES):
            if download.completed + len(data) > remote.size:
                raise PullFailed(f"{_host(remote.url)} sends more than the manifest says")
            await STORE.run(download.write, data)
            if time.monotonic() - reported_s >= REPORT_EVERY_S:
                reported_s = time.monotonic()
                report(progress(remote.digest, remote.size, download.completed))
    if download.completed < remote.size:
        raise _Cut("the connection was closed in the middle")


def describe_response(answer: aiohttp.ClientResponse) -> str:
    """An answer that is a refusal, for people."""
    if answer.status in (401, 403):
        return f"HTTP {answer.status}: access denied (private models need a token)"
    return f"HTTP {answer.status} {answer.reason}"


def led_inside(error: BaseException) -> bool:
    """Whether a connection was not made since it led to where it may not."""
    return isinstance(getattr(error, "os_error", error), InnerAddress)


def unreachable(url: str, error: BaseException) -> str:
    """What to say when a server cannot be reached, or does not come to an end."""
    where = f"cannot get it from {_host(url)}: {reason_of(error)}"
    if led_inside(error):
        return where
    return f"{where}; is this machine online? try again to resume"


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0] or url


def check_room(folder: Path, remotes: list[Remote], have: Mapping[str, int]) -> None:
    """Raises PullFailed if the disk cannot hold what is to come; blocking."""
    missing = sum(remote.size - have.get(hex_of(remote.digest), 0) for remote in remotes)
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if missing > free:
        raise PullFailed(
            f"no space left on device: {missing} bytes are to come, {free} are free in {folder}"
        )
