"""Bodies that come packed."""

import gzip
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.api.unpack import MOST_AT_ONCE, unpacker_of
from proxy.errors import BadRequest
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy

TEXT = b'{"model": "none"}' * 1000
BARE = zlib.compressobj(wbits=-zlib.MAX_WBITS)
PACKED = [
    ("gzip", gzip.compress(TEXT, mtime=0)),
    ("X-GZip", gzip.compress(TEXT, mtime=0)),
    ("gzip", gzip.compress(TEXT[:100], mtime=0) + gzip.compress(TEXT[100:], mtime=0)),
    ("deflate", zlib.compress(TEXT)),
    ("deflate", BARE.compress(TEXT) + BARE.flush()),
]


def unpacked(encoding: str, data: bytes, step: int) -> bytes:
    unpacker = unpacker_of(encoding)
    assert unpacker is not None
    pieces = [p for at in range(0, len(data), step) for p in unpacker.pieces(data[at : at + step])]
    unpacker.end()
    return b"".join(pieces)


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
@pytest.mark.parametrize(("encoding", "data"), PACKED)
def test_what_was_packed_is_there_again(encoding: str, data: bytes, step: int) -> None:
    assert unpacked(encoding, data, step) == TEXT


@pytest.mark.parametrize("step", [1, 1 << 20])
@pytest.mark.parametrize(("encoding", "data"), PACKED)
def test_half_of_it_is_nothing(encoding: str, data: bytes, step: int) -> None:
    for half in (data[:-1], data[: len(data) // 2], data[:1]):
        with pytest.raises(BadRequest, match="not what its Content-Encoding says"):
            unpacked(encoding, half, step)


@pytest.mark.parametrize("encoding", ["", " identity "])
def test_what_is_not_packed_stays(encoding: str) -> None:
    assert unpacker_of(encoding) is None


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "\udcff"])
def test_what_nobody_can_unpack_is_refused(encoding: str) -> None:
    with pytest.raises(BadRequest, match="gzip and deflate are"):
        unpacker_of(encoding)


def test_much_comes_in_pieces() -> None:
    unpacker = unpacker_of("gzip")
    assert unpacker is not None

    sizes = [len(piece) for piece in unpacker.pieces(gzip.compress(bytes(10 << 20), mtime=0))]

    assert sum(sizes) == 10 << 20
    assert max(sizes) <= MOST_AT_ONCE


@pytest.fixture
async def asked(tmp_path: Path) -> AsyncIterator[Proxy]:
    server, state = {"max_body": "256KiB"}, {"state": tmp_path / "state"}
    async with proxy(tmp_path, policies({}, server=server, catalog=state)) as running:
        yield running


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/v1/messages",
        "/api/chat",
        "/api/create",
        "/api/pull",
        f"/api/blobs/sha256:{'0' * 64}",
        "/v1/audio/transcriptions",
    ],
)
@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"no gzip " * 5000,
        PACKED[0][1][:-9],
        PACKED[0][1][:20],
        gzip.compress(b"", mtime=0)[:-1],
    ],
)
async def test_a_body_that_says_gzip_and_is_none_is_a_bad_request(
    path: str, data: bytes, asked: Proxy
) -> None:
    """Half a one ended the connection without an answer, and a byte was no body at all."""
    headers = {"Content-Encoding": "gzip"}
    async with asked.session.post(path, data=data, headers=headers) as answer:
        assert answer.status == 400
        assert "Content-Encoding" in await answer.text()


async def test_one_that_is_one_is_read(asked: Proxy) -> None:
    for encoding, data in PACKED:
        packed = gzip.compress(b'{"model": "none"}', mtime=0) if "z" in encoding.lower() else data
        headers = {"Content-Encoding": encoding}
        async with asked.session.post("/api/show", data=packed, headers=headers) as answer:
            assert answer.status == 404, await answer.text()
    headers = {"Content-Encoding": "gzip"}
    bomb = gzip.compress(bytes(64 << 20), mtime=0)
    async with asked.session.post("/api/show", data=bomb, headers=headers) as answer:
        assert answer.status == 413
