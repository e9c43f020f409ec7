"""Bodies that are packed: what they stand for, and what is refused."""

import gzip
import zlib

import pytest

from proxy.api.encoding import PIECE_BYTES, Decoder
from proxy.errors import BadRequest

TEXT = b'{"model": "m"}' * 100_000
RAW = zlib.compressobj(wbits=-15)
PACKED = {
    "gzip": gzip.compress(TEXT),
    "GZIP ": gzip.compress(TEXT[:7]) + gzip.compress(TEXT[7:]),  # several are one
    "deflate": zlib.compress(TEXT),
    "Deflate": RAW.compress(TEXT) + RAW.flush(),  # as some browsers had it
    "identity": TEXT,
    "": TEXT,
}


def unpacked(encoding: str, data: bytes, step: int) -> bytes:
    decoder = Decoder(encoding)
    found = [
        piece
        for start in range(0, len(data), step)
        for piece in decoder.pieces(data[start : start + step])
    ]
    decoder.end()
    assert decoder.is_plain or all(len(piece) <= PIECE_BYTES for piece in found)
    return b"".join(found)


@pytest.mark.parametrize("step", [1, 1000, 1 << 20])
@pytest.mark.parametrize("encoding", PACKED)
def test_what_it_stands_for(encoding: str, step: int) -> None:
    data = PACKED[encoding]
    assert unpacked(encoding, data, max(step, len(data) // 10_000)) == TEXT


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_what_is_broken_or_cut_off(encoding: str) -> None:
    for data in (PACKED[encoding][:-9], b"this is nothing of that kind", PACKED[encoding] + b"x"):
        with pytest.raises(BadRequest, match="the body is broken"):
            unpacked(encoding, data, 1000)


def test_an_empty_one_is_empty() -> None:
    assert unpacked("gzip", b"", 1) == b""


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "x" * 1000, "\udcff"])
def test_what_is_not_known(encoding: str) -> None:
    with pytest.raises(BadRequest, match="Content-Encoding that is not known"):
        Decoder(encoding)
