"""What is no HTTP, or hardly: an answer in a protocol's shape, and nothing of it in the log."""

import asyncio
import contextlib
import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.support.guard import HANG_S, until
from tests.support.policies import policies
from tests.support.served import Served, served

BODY = b'{"model": "none"}'


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("malformed")
    with served(folder, policies({}, catalog={"state": folder / "state"})) as address:
        yield address


async def answer(url: Served, head: bytes, body: bytes = BODY) -> tuple[int, Any]:
    """Its status and JSON. The connection is closed by whoever wants to."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    writer.write(head + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
    async with asyncio.timeout(HANG_S):
        said = await reader.read()
    writer.close()
    start, _, rest = said.partition(b"\r\n\r\n")
    return int(start.split()[1]), json.loads(rest)


@pytest.mark.parametrize(
    "head",
    [
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer SECRET\x01\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX-\xc3\xa9: SECRET\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nHost: SECRET\r\n",
        b"POST /v1/SECRET\x01 HTTP/1.1\r\nHost: localhost\r\n",
        b"SECRET\r\n",
    ],
)
async def test_what_is_no_http_is_a_bad_request_and_is_not_logged(head: bytes, url: Served) -> None:
    """aiohttp logs the line as it came, with a traceback, and answers in plain text."""
    status, told = await answer(url, head)

    assert status == 400
    assert told["error"]["type"] == "invalid_request_error"
    assert "malformed" in told["error"]["message"]
    assert b"SECRET" not in url.log.read_bytes()
    await until(lambda: url.said("malformed_request"), "it is told that there was one")
    assert b"Traceback" not in url.log.read_bytes()
    assert url.said("Error handling request from 127.0.0.1") == []


@pytest.mark.parametrize("expected", [b"\xff", b"x", b"100-continue, x", b"200-ok"])
@pytest.mark.parametrize("path", [b"/v1/completions", b"/nowhere"])
async def test_nothing_else_is_expected_than_to_go_on(
    path: bytes, expected: bytes, url: Served
) -> None:
    """It was a 417 in plain text, and with bytes that are no text a 500."""
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nExpect: %s\r\n" % (path, expected)

    status, told = await answer(url, head)

    assert status == 404
    assert told["error"]["message"]


@pytest.mark.parametrize("path", [b"/nowhere", b"/api/push", b"/v1/completions"])
async def test_a_body_that_nobody_can_unpack_is_no_error_of_ours(path: bytes, url: Served) -> None:
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\n" % path

    status, told = await answer(url, head, b"this is no gzip" * 1000)

    assert status in (400, 404)
    assert told["error"]
    assert url.said("Unhandled exception", "request_failed") == []


async def test_what_is_too_much_is_not_unpacked_to_its_end(url: Served) -> None:
    """2 GB in 2 MB: the refusal came soon, but the rest was unpacked for ten seconds, and nobody
    else was served."""
    made = zlib.compressobj(wbits=31)
    bits = [made.compress(bytes(1 << 24)) + made.flush(zlib.Z_FULL_FLUSH) for _ in range(2)]
    bomb = bits[0] + 127 * bits[1]
    before = cpu_ticks(url)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\n"

    status, told = await answer(url, head, bomb)

    assert status == 413
    assert told["error"]["message"]
    assert cpu_ticks(url) - before < 100


@pytest.mark.parametrize("host", [b"xn--", b"xn--zz--", b"a.xn--.b:80"])
async def test_a_target_without_a_name_is_refused(host: bytes, url: Served) -> None:
    """Its connection stayed open for ever, and nothing was said of it."""
    head = b"GET http://%s/health HTTP/1.1\r\nHost: localhost\r\n" % host

    assert (await answer(url, head))[0] == 403


async def test_a_host_that_is_no_text_is_no_error_of_ours(url: Served) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: ::1%\xff\r\n"
    assert (await answer(url, head))[0] < 500


async def test_a_path_of_slashes_is_refused_at_once(url: Served) -> None:
    """Each slash was another name to look up: 1.3 s of the event loop for one request."""
    before = cpu_ticks(url)
    status, _ = await answer(
        url, b"GET /upstream%s HTTP/1.1\r\nHost: localhost\r\n" % (b"/" * 7000)
    )

    assert status == 404
    assert cpu_ticks(url) - before < 50


def cpu_ticks(url: Served) -> int:
    """Hundredths of a second that the proxy has computed for."""
    fields = Path(f"/proc/{url.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


SECRETS = (b"Authorization: Bearer SECRET\r\n", b"Cookie: a=SECRET\r\n", b"X-Api-Key: SECRET\r\n")


@pytest.mark.parametrize(
    ("target", "more"),
    [
        (b"/api/version", b"X-Long: %s\r\n" % (b"x" * 60_000)),
        (b"/api/version", b"Cookie: %s; b=SECRET\r\n" % (b"x" * 9_000)),
        (b"/api/version?x=%s" % (b"x" * 60_000), b""),
        (b"/api/version?x=1", b"".join(b"X-%d: %s\r\n" % (n, b"x" * 1000) for n in range(60))),
    ],
)
async def test_a_head_may_be_long(target: bytes, more: bytes, url: Served) -> None:
    head = b"GET %s HTTP/1.1\r\nHost: localhost\r\n%s%s"

    status, told = await answer(url, head % (target, b"".join(SECRETS), more), b"")

    assert (status, "version" in told) == (200, True)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /api/version HTTP/1.1\r\nHost: localhost\r\nX-Long: %s SECRET\r\n" % (b"x" * 70_000),
        b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n%s: SECRET\r\n" % (b"x" * 70_000),
        b"GET /api/version?%s SECRET HTTP/1.1\r\nHost: localhost\r\n" % (b"x" * 70_000),
        b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n"
        + b"".join(b"X-%d: SECRET\r\n" % number for number in range(1000)),
        b"GET /api/version HTTP/1.1\r\nHost: localhost\r\nX-Moe-Proxy-Timeout: SECRET\r\n bad",
        b"GET /admin/events HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: SECRET\r\n",
        b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: SECRET\r\n",
        b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: SECRET\r\n",
        b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: SECRET\r\n",
    ],
)
async def test_no_value_of_a_header_is_told_to_anybody(head: bytes, url: Served) -> None:
    """With each comes what nobody is to see: a traceback quoted all of them."""
    status, told = await answer(url, b"".join((head, *SECRETS)))

    assert status == 400
    assert "SECRET" not in json.dumps(told)
    assert b"SECRET" not in url.log.read_bytes()
    assert b"Traceback" not in url.log.read_bytes()
    assert url.said("Unhandled exception", "request_failed") == []


async def test_a_head_that_has_no_end_is_ended(url: Served) -> None:
    """What one may send before it is known who asks for what is bounded."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
    line = b"X-Long: %s\r\n" % (b"x" * 60_000)
    async with asyncio.timeout(HANG_S):
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                writer.write(line)
                await writer.drain()
        with contextlib.suppress(ConnectionError):
            assert (await reader.read(12))[9:] in (b"400", b"431")
    writer.close()
