import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from hypothesis import given
from hypothesis import strategies as st

from proxy.catalog.gguf import GgufError, Header
from proxy.catalog.gguf_reader import MAX_ARRAY_STRINGS, read_header
from proxy.demo.gguf_writer import TensorSpec, write_model
from tests.support.archive import member
from tests.support.models import model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small file with every kind of thing in its header."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    metadata = {
        ".block_count": 2,
        ".rope.freq_base": 1e6,
        ".causal": False,
        ".head_count_kv": [1, 0, 2],
        "general.name": "größe",
        "general.tags": ["a", "b"],
        "tokenizer.ggml.tokens": [f"t{i}" for i in range(1500)],
        "tokenizer.ggml.scores": [0.5] * 1500,
    }
    tensors = [
        TensorSpec("a.weight", (4, 64), Type.Q8_0, 1.0),
        TensorSpec("b.bias", (3,), mean=1.0),
        TensorSpec("c.weight", (2, 2, 32), Type.MXFP4, 1.0),
    ]
    write_model(path, "tiny", metadata=metadata, tensors=tensors)
    return path.read_bytes()


def read(data: bytes, folder: Path) -> Header:
    path = folder / "x.gguf"
    path.write_bytes(data)
    return read_header(path)


def key_values(*pairs: bytes, tensors: int = 0, count: int | None = None) -> bytes:
    count = len(pairs) if count is None else count
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, count) + b"".join(pairs)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def number(key: str, value: int) -> bytes:
    """A key with a whole number of 64 bits."""
    return text(key.encode()) + struct.pack("<IQ", 10, value)


def test_metadata(tiny: bytes, tmp_path: Path) -> None:
    header = read(tiny, tmp_path)

    assert header.architecture == "tiny"
    assert header.name == "größe"
    assert header.layers == 2
    assert header.hyper("causal") is False
    assert header.count("head_count_kv") == 2
    assert header.metadata["general.tags"] == ("a", "b")
    assert "tokenizer.ggml.tokens" not in header.metadata
    assert header.array_lengths["tokenizer.ggml.tokens"] == 1500
    assert header.size_bytes == len(tiny)


def test_keeps_long_arrays_when_asked(tiny: bytes, tmp_path: Path) -> None:
    read(tiny, tmp_path)

    header = read_header(tmp_path / "x.gguf", keep=2000)

    assert header.metadata["tokenizer.ggml.tokens"] == tuple(f"t{i}" for i in range(1500))
    assert header.metadata["tokenizer.ggml.scores"] == (0.5,) * 1500


@pytest.mark.parametrize("shape", ["gpt-oss", "deepseek2"])
def test_tensors_are_where_the_library_finds_them(shape: str) -> None:
    path = model(shape, layers=2)
    reader = gguf.GGUFReader(path)

    ours = [(t.name, t.type, t.shape, t.position, t.size_bytes) for t in read_header(path).tensors]

    assert ours == [
        (t.name, t.tensor_type.name, tuple(t.shape.tolist()), t.data_offset, t.n_bytes)
        for t in reader.tensors
    ]


def test_real_vocabulary_is_skipped_without_decoding() -> None:
    path = member("ggml-vocab-qwen2.gguf")
    tracemalloc.start()
    try:
        header = read_header(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert header.array_lengths["tokenizer.ggml.tokens"] == 151936
    assert peak < 8 << 20


def test_split_model_is_one(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "big.gguf", "tiny", split_max_tensors=2)
    writer.add_block_count(7)
    for index in range(5):
        data = bytes([index]) * 64
        writer.add_tensor(f"t{index}", np.frombuffer(data, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    files = sorted(tmp_path.iterdir())

    for part in files:
        header = read_header(part)

        assert header.files == tuple(files)
        assert header.layers == 7
        assert header.size_bytes == sum(file.stat().st_size for file in files)
        assert len(header.tensors) == 5
        for tensor in header.tensors:
            content = tensor.file.read_bytes()[tensor.position :][: tensor.size_bytes]
            assert content == bytes([int(tensor.name[1:])]) * 64

    files[1].unlink()
    with pytest.raises(GgufError, match="1 of 3 parts are missing: big-00002-of-00003"):
        read_header(files[0])


def test_unknown_tensor_type_reaches_to_the_next(tiny: bytes, tmp_path: Path) -> None:
    known = read(tiny, tmp_path)
    where = tiny.index(b"a.weight") + len(b"a.weight") + 4 + 16
    assert tiny[where : where + 4] == struct.pack("<I", Type.Q8_0)

    header = read(tiny[:where] + struct.pack("<I", 144) + tiny[where + 4 :], tmp_path)

    assert header.tensors[0].type == "type 144"
    assert header.tensors[0].size_bytes == known.tensors[1].position - known.tensors[0].position


def test_every_truncation_is_said(tiny: bytes, tmp_path: Path) -> None:
    for length in [*range(0, 400, 7), *range(400, len(tiny), 211), len(tiny) - 100]:
        with pytest.raises(GgufError, match=r"x\.gguf: byte \d+: "):
            read(tiny[:length], tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GGML" + bytes(100), "not a GGUF file"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(100), "version 1 is not supported"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(100), "big-endian"),
        (key_values(count=2**63), "keys: .* more than the file can hold"),
        (key_values(tensors=2**40), "tensors: .* more than the file can hold"),
        (key_values(text(b"k") + struct.pack("<I", 77)), "value type 77 is unknown"),
        (key_values(text(b"k") + struct.pack("<IIQ", 9, 8, 2**60)), "more than the file can hold"),
        (key_values(text(b"k") + struct.pack("<IIQ", 9, 9, 1)), "value type 9 are not supported"),
        (key_values(text(b"k") + struct.pack("<IQ", 8, 2**62)), "too long"),
        (key_values(*[text(b"k") + struct.pack("<IB", 0, 1)] * 2), "'k' comes twice"),
        (
            key_values(text(b"general.alignment") + struct.pack("<II", 4, 3)),
            "alignment 3 is not a power of two",
        ),
        (
            key_values(text(b"t") + struct.pack("<I", 9) + bytes(99), count=0, tensors=1),
            "9 dimensions",
        ),
        (
            key_values(text(b"t") + struct.pack("<IQIQ", 1, 33, 8, 0), count=0, tensors=1),
            "no whole blocks",
        ),
        (key_values(number("general.alignment", 2**63)), "is not a power of two"),
        (key_values(number("general.alignment", 0)), "is not a power of two"),
        (
            key_values(text(b"general.alignment") + struct.pack("<If", 6, 32.0)),
            "is not a power of two",
        ),
        (
            key_values(text(b"general.alignment") + struct.pack("<IB", 7, 1)),
            "is not a power of two",
        ),
        (
            key_values(text(b"t") + struct.pack("<IQIQ", 1, 2**62, 99, 0), count=0, tensors=1),
            "more weights than the file can hold",
        ),
        (
            key_values(text(b"t") + struct.pack("<IQQIQ", 2, 0, 2**62, 0, 0), count=0, tensors=1),
            "more weights than the file can hold",
        ),
        (
            key_values(text(b"t" * 300) + struct.pack("<IQIQ", 1, 1, 0, 0), count=0, tensors=1),
            "too long a name",
        ),
    ],
)
def test_hostile_headers(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(GgufError, match=message):
        read(data, tmp_path)


def test_a_file_may_not_ask_for_endless_work(tmp_path: Path) -> None:
    path = tmp_path / "sparse.gguf"
    for count, refused in ((MAX_ARRAY_STRINGS, False), (MAX_ARRAY_STRINGS + 1, True)):
        with path.open("wb") as file:
            file.write(key_values(text(b"k") + struct.pack("<IIQ", 9, 8, count)))
            file.truncate(1 << 40)

        if refused:
            with pytest.raises(GgufError, match="more than the file can hold"):
                read_header(path)
        else:
            assert read_header(path).array_lengths == {"k": count}


def full_of_arrays() -> bytes:
    """Each array is short, and all together are more than any model has."""
    numbers = struct.pack("<IIQ", 9, 10, 1024) + struct.pack("<Q", 1 << 40) * 1024
    return key_values(*(text(b"k%d" % i) + numbers for i in range(1000)))


def full_of_texts() -> bytes:
    words = struct.pack("<IIQ", 9, 8, 1024) + text(b"x" * 40) * 1024
    return key_values(*(text(b"k%d" % i) + words for i in range(500)))


def full_of_vocabularies() -> bytes:
    words = struct.pack("<IIQ", 9, 8, 1 << 19) + text(b"") * (1 << 19)
    return key_values(*(text(b"k%d" % i) + words for i in range(9)))


def full_of_text() -> bytes:
    long = struct.pack("<I", 8) + text(b"x" * (8 << 20))
    return key_values(*(text(b"k%d" % i) + long for i in range(6)))


def full_of_tensors() -> bytes:
    one = text(b"t") + struct.pack("<IQIQ", 1, 1, 0, 0)
    return key_values(one * 70_000, tensors=70_000, count=0)


@pytest.mark.parametrize("make", [full_of_arrays, full_of_texts, full_of_text, full_of_tensors])
def test_a_header_may_not_ask_for_all_memory(make: Callable[[], bytes], tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(make())
    tracemalloc.start()
    try:
        with pytest.raises(GgufError, match=r"any real model has|more than the file can hold"):
            read_header(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 64 << 20


def test_vocabularies_without_end_are_not_looked_through(tmp_path: Path) -> None:
    with pytest.raises(GgufError, match="more texts than any real model has"):
        read(full_of_vocabularies(), tmp_path)


def test_a_tensor_without_dimensions_is_one_number(tmp_path: Path) -> None:
    one = text(b"t") + struct.pack("<IIQ", 0, 0, 0)

    header = read(key_values(one, count=0, tensors=1) + bytes(100), tmp_path)

    assert header.tensors[0].shape == (1,)
    assert header.tensors[0].size_bytes == 4


@given(st.data())
def test_mutations_raise_nothing_else(
    tiny: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    mutated = bytearray(tiny)
    # Half of the changes go where the structure is: the beginning, and the tensors' list.
    places = st.one_of(
        st.integers(0, 400),
        st.integers(tiny.index(b"a.weight") - 8, tiny.index(b"c.weight") + 60),
        st.integers(0, len(tiny) - 1),
    )
    for place, value in data.draw(
        st.lists(st.tuples(places, st.binary(min_size=1, max_size=8)), min_size=1, max_size=6)
    ):
        mutated[place : place + len(value)] = value
    try:
        header = read(bytes(mutated), folder)
    except GgufError:
        return
    for tensor in header.tensors:
        assert 0 <= tensor.size_bytes <= len(mutated) - tensor.position
