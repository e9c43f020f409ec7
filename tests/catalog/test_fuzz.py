"""Whatever bytes lie where a model's files should be: documented errors, and little memory."""

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.catalog.gguf import GgufError
from proxy.catalog.local import Catalog
from proxy.catalog.modelfile import ModelfileError, parse_modelfile
from proxy.catalog.store import Store
from tests.catalog.test_store import names, put
from tests.fuzz.bounds import little_memory
from tests.fuzz.targets import TARGETS, read_gguf
from tests.support.models import model

GOOD, BAD = (f"registry.ollama.ai/library/{name}/latest" for name in ("good", "bad"))
HEX = "0" * 64
# Less than for what is near nothing real (tests/fuzz): these are small.
MOST_BYTES = 16 << 20

json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=20)
    | st.integers() | st.sampled_from([10**30, -(2**63), f"sha256:{HEX}", "model", "params"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["config", "layers", "mediaType", "digest", "size", "name", "from", "stop",
                         "seed", "num_ctx", "role", "content", "moe_cpu_layers", "temperature"])
        | st.text(max_size=8), inner, max_size=6),
    max_leaves=20,
)  # fmt: skip
layers = st.fixed_dictionaries(
    {
        "mediaType": st.sampled_from(
            [f"application/vnd.ollama.image.{kind}" for kind in ("model", "params", "system", "x")]
        ),
        "digest": st.sampled_from([f"sha256:{HEX}", "sha256:..", "", f"sha256-{HEX}"]),
        "size": st.integers(),
    },
    optional={"name": st.text(max_size=20), "from": json_values},
)
manifests = st.fixed_dictionaries(
    {"layers": st.lists(layers, max_size=4)}, optional={"config": layers, "other": json_values}
)
documents = (json_values | manifests).map(json.dumps).map(str.encode) | st.binary(max_size=200)


@given(documents)
@settings(deadline=None)
def test_manifests(data: bytes) -> None:
    with little_memory(MOST_BYTES):
        TARGETS["manifest"].feed(data)


@given(st.sampled_from(["manifest", "params", "messages", "config", "system", "template"]),
       documents)  # fmt: skip
@settings(deadline=None, max_examples=200)
def test_stores(tmp_path_factory: pytest.TempPathFactory, where: str, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("store")
    put(folder, GOOD, model=b"GGUF")
    if where == "manifest":
        put(folder, BAD, model=b"GGUF").write_bytes(data)
    else:
        put(folder, BAD, model=b"GGUF", **{where: data})

    with little_memory(MOST_BYTES):
        first, again = (
            Catalog([], {}, [Store(folder, "own")], cache=folder / "cache" / "headers.json")
            for _ in range(2)
        )

    assert "good:latest" in names(first)
    assert first.list() == again.list()
    for entry in first.list():
        json.dumps(dict(entry.params), allow_nan=False)


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_headers(data: st.DataObject) -> None:
    """Of real models, changed where their structure is, and cut."""
    shape = data.draw(st.sampled_from(["qwen3moe", "gpt-oss", "deepseek2"]))
    whole = model(shape, layers=2)
    with whole.open("rb") as file:
        content = bytearray(file.read(64 << 10))  # all of it, with the vocabulary
    end = data.draw(st.just(whole.stat().st_size) | st.integers(0, len(content)))
    changes = st.tuples(
        st.integers(0, 2000) | st.integers(0, len(content) - 1),
        st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff" * 8, bytes(8)]),
    )
    for place, value in data.draw(st.lists(changes, max_size=5)):
        content[place : place + len(value)] = value

    # A text of the largest size that is kept is six times as long in the JSON that shows it.
    with little_memory(), suppress(GgufError):
        read_gguf(bytes(content), end)


words = st.sampled_from(
    ["FROM", "PARAMETER", "SYSTEM", "MESSAGE", "TEMPLATE", "user", '"""', '"', "num_ctx", "seed",
     "stop", "moe_cpu_layers", "temperature", "nan", "1e999", "9" * 400, "-1", "#", " ", "\n", "\t",
     "\r\n", "\ufeff", "{{", "{% for"]
) | st.text(max_size=5)  # fmt: skip


@given(st.lists(words, max_size=40).map("".join), st.booleans())
@settings(deadline=None, max_examples=300)
def test_modelfiles(text: str, has_from: bool) -> None:
    with little_memory(MOST_BYTES):
        TARGETS["modelfile"].feed((("FROM x\n" if has_from else "") + text).encode())


def test_a_long_text_takes_no_longer_than_its_length() -> None:
    """It was looked through once more for each of its lines: two minutes for this one."""
    text = 'FROM x\nSYSTEM """' + (" " * 1000 + "\n") * 20_000

    with pytest.raises(ModelfileError, match="never closed"):
        parse_modelfile(text)


@given(st.dictionaries(st.sampled_from(["seed", "stop", "temperature", "use_mmap", "num_cpu_moe"])
                       | st.text(max_size=5), json_values))  # fmt: skip
@settings(deadline=None)
def test_parameters(given: dict[str, object]) -> None:
    TARGETS["parameters"].feed(json.dumps(given).encode())
