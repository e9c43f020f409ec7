"""What a request asks for: its model and its conversation, in every protocol and in any bytes."""

import gzip
import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from proxy.fleet.front.asked import MOST_UNPACKED_BYTES, Wanted, wanted_of

CHAT = "/v1/chat/completions"


def wanted(
    path: str = CHAT, body: Any = None, method: str = "POST", query: str = "", **headers: str
) -> Wanted:
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return wanted_of(method, path, query, CIMultiDict(named), data)


def says(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


# --- which model ---


@pytest.mark.parametrize(
    ("method", "path", "query", "body", "models"),
    [
        ("POST", CHAT, "", {"model": "m"}, ("m",)),
        ("POST", "/v1/completions", "", {"prompt": "p", "model": "org/m:q4"}, ("org/m:q4",)),
        ("POST", "/v1/responses", "", {"model": "m", "input": "hi"}, ("m",)),
        ("POST", CHAT, "", {"model": "org/m:q4?moe_cpu_layers=3"}, ("org/m:q4",)),
        ("POST", CHAT, "", {"model": "?moe_cpu_layers=3"}, ()),
        ("GET", "/props", "model=m%3Fmoe_cpu_layers=3", None, ("m",)),
        ("POST", CHAT, "", b'{"messages": ["' + 100_000 * b"x" + b'"], "model": "m", "s', ("m",)),
        ("POST", "/v1/messages", "", {"model": "m", "max_tokens": 1}, ("m",)),
        ("POST", "/v1/embeddings", "", {"input": ["a", "b"], "model": "m"}, ("m",)),
        ("POST", "/api/chat", "", {"model": "m:latest"}, ("m:latest",)),
        ("POST", "/api/show", "", {"name": "m"}, ("m",)),
        ("DELETE", "/api/delete", "", {"name": "m"}, ("m",)),
        ("POST", "/api/copy", "", {"source": "m", "destination": "n"}, ("m",)),
        ("POST", "/api/create", "", {"model": "new", "from": "m"}, ("m",)),
        ("POST", "/api/pull", "", {"model": "hf.co/a/b"}, ("hf.co/a/b",)),
        ("GET", "/props", "model=a%2Fm", None, ("a/m",)),
        ("POST", "/slots/3", "action=erase&model=m", None, ("m",)),
        ("GET", "/v1/models/org/m", "", None, ("org/m",)),
        ("GET", "/models/m", "", None, ("m",)),
        ("GET", "/v1/models", "", None, ()),
        ("POST", "/admin/models/org/m:q4/load", "", None, ("org/m:q4",)),
        ("GET", "/admin/models/m/plan", "", None, ("m",)),
        ("PUT", "/admin/models/m/split", "", {"moe_cpu_layers": 3}, ("m",)),
        ("GET", "/logs/m", "", None, ("m",)),
        ("GET", "/logs/stream/m", "", None, ("m",)),
        ("GET", "/logs/stream", "", None, ()),
        ("GET", "/upstream/a/b/health", "", None, ("a", "a/b", "a/b/health")),
        ("GET", "/upstream/", "", None, ()),
        ("POST", CHAT, "", {"model": 5}, ()),
        ("POST", CHAT, "", {"model": ""}, ()),
        ("POST", CHAT, "model=m", {"messages": []}, ("m",)),
        ("POST", CHAT, "", [1, 2], ()),
        ("POST", CHAT, "", b"", ()),
        ("POST", CHAT, "", b'{"model": "m", "messages": [}', ("m",)),
        ("POST", CHAT, "", b'{"model":"m\\u00e9", "x": \xff}', ("m\u00e9",)),
        ("GET", "/health", "", None, ()),
    ],
)
def test_the_model_is_found_where_each_route_has_it(
    method: str, path: str, query: str, body: Any, models: tuple[str, ...]
) -> None:
    assert wanted(path, body, method, query).models == models


@pytest.mark.parametrize(("pack", "name"), [(gzip.compress, "gzip"), (zlib.compress, "deflate")])
def test_a_packed_body_is_looked_into(pack: Any, name: str) -> None:
    body = json.dumps({"model": "m", "messages": [says("user", "hi")]}).encode()

    assert wanted(body=pack(body), Content_Encoding=name) == wanted(body=body)


def test_a_body_that_unpacks_to_more_than_there_is_room_for_is_looked_at_no_further() -> None:
    bomb = gzip.compress(b'{"model": "m", "a": "' + bytes(2 * MOST_UNPACKED_BYTES))

    assert wanted(body=bomb, Content_Encoding="gzip").models == ("m",)


def test_the_model_of_a_form() -> None:
    form = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n\0\1\r\n'
        b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--x--\r\n'
    )

    kind = "multipart/form-data; boundary=x"
    assert wanted("/v1/audio/transcriptions", form, Content_Type=kind).models == ("m",)
    assert wanted("/v1/audio/transcriptions", b"", Content_Type=kind).models == ()
    assert wanted("/v1/audio/transcriptions", form, Content_Type="multipart/form-data") == Wanted()


# --- which conversation ---

OPENAI = [says("system", "be brief"), says("user", "hello")]
TURNS = [*OPENAI, says("assistant", "hi"), says("user", "and now?")]


@pytest.mark.parametrize(
    ("path", "first", "later", "other"),
    [
        (CHAT, {"messages": OPENAI}, {"messages": TURNS}, {"messages": TURNS[1:]}),
        ("/api/chat", {"messages": OPENAI}, {"messages": TURNS}, {"messages": TURNS[2:]}),
        (
            "/v1/messages",
            {"system": "s", "messages": OPENAI[1:]},
            {"system": "s", "messages": TURNS[1:]},
            {"system": "t", "messages": TURNS[1:]},
        ),
        (
            "/v1/responses",
            {"instructions": "s", "input": OPENAI[1:]},
            {"instructions": "s", "input": TURNS[1:]},
            {"instructions": "s", "input": TURNS[3:]},
        ),
        (
            "/v1/completions",
            {"prompt": "once upon a time" * 20},
            {"prompt": "once upon a time" * 20 + " there was"},
            {"prompt": "twice upon a time" * 20},
        ),
        ("/api/generate", {"prompt": "p", "system": "s"}, {"prompt": "p", "system": "s"},
         {"prompt": "p", "system": "t"}),
        ("/v1/embeddings", {"input": ["a"]}, {"input": ["a"]}, {"input": ["b"]}),
    ],
)  # fmt: skip
def test_all_turns_of_a_conversation_have_one_key(
    path: str, first: dict[str, Any], later: dict[str, Any], other: dict[str, Any]
) -> None:
    keys = [wanted(path, {"model": "m", **body}).key for body in (first, later, other)]

    assert keys[0]
    assert keys[0] == keys[1] != keys[2]


def test_another_model_is_another_conversation_however_it_is_spelled() -> None:
    keys = [wanted(body={"model": m, "messages": OPENAI}).key for m in ("m", "M:latest", "n")]

    assert keys[0] == keys[1] != keys[2]


def test_how_a_model_is_to_be_loaded_makes_no_other_conversation() -> None:
    body = {"messages": [says("user", "hi")]}
    keys = [wanted(body={**body, "model": name}).key for name in ("m", "m?moe_cpu_layers=3")]
    assert keys[0] == keys[1] != b""


def test_pictures_are_a_part_of_what_is_said() -> None:
    def asked(picture: str) -> bytes:
        parts = [{"type": "image_url", "image_url": {"url": picture}}]
        return wanted(body={"model": "m", "messages": [says("user", parts)]}).key

    assert asked("data:a" + "x" * 200_000) != asked("data:b" + "x" * 200_000)


def test_what_has_no_conversation_has_no_key() -> None:
    assert wanted(body={"model": "m"}).key == b""
    assert wanted("/api/show", {"model": "m"}).key == b""
    assert wanted(body={"model": "m", "messages": []}).key == b""


# --- what else decides ---


def test_the_length_of_context_that_is_wanted() -> None:
    assert wanted("/api/chat", {"model": "m", "options": {"num_ctx": 8192}}).ctx == 8192
    assert wanted("/api/chat", {"model": "m", "options": {"num_ctx": "8192"}}).ctx == 0
    assert wanted("/api/chat", {"model": "m", "options": {"num_ctx": -1}}).ctx == 0
    assert wanted("/api/chat", {"model": "m", "options": [1]}).ctx == 0
    assert wanted(body={"model": "m", "num_ctx": 4096}).ctx == 4096


@pytest.mark.parametrize(
    ("method", "path", "may"),
    [
        ("POST", CHAT, True),
        ("POST", "/api/generate", True),
        ("POST", "/upstream/m/v1/chat/completions", True),
        ("GET", "/admin/state", True),
        ("HEAD", "/api/blobs/sha256:00", True),
        ("POST", "/api/blobs/sha256:00", False),
        ("POST", "/api/pull", False),
        ("POST", "/api/create", False),
        ("DELETE", "/api/delete", False),
        ("PUT", "/admin/policies/a.toml", False),
        ("POST", "/admin/models/m/load", False),
        ("POST", "/v1/responses", True),
        ("DELETE", "/v1/responses/resp_1", False),
    ],
)
def test_what_changes_something_is_not_asked_twice(method: str, path: str, may: bool) -> None:
    assert wanted(path, None, method).may_repeat is may


def test_things_that_one_node_has() -> None:
    assert wanted("/admin/backends/b1/split", None, "PUT").item == ("backends", "b1")
    assert wanted("/admin/requests/r1/cancel").item == ("requests", "r1")
    assert wanted("/v1/responses/resp_1", None, "GET").item == ("responses", "resp_1")
    assert wanted("/v1/responses/resp_1/cancel").item == ("responses", "resp_1")
    assert wanted("/v1/responses/input_tokens", {"model": "m"}).item is None
    body = {"model": "m", "input": "go on", "previous_response_id": "resp_1"}
    assert wanted("/v1/responses", body).item == ("responses", "resp_1")


def test_a_models_files_go_to_where_it_is_made_of_them() -> None:
    made = {"model": "new", "files": {"a.gguf": "sha256:00"}}
    homes = [
        wanted("/api/blobs/sha256:00", None, "HEAD").home,
        wanted("/api/blobs/sha256:00", b"GGUF").home,
        wanted("/api/create", made).home,
    ]

    assert set(homes) == {"files"}
    assert wanted("/admin/policies/a.toml", b"x = 1", "PUT").home == "policies"


# --- whatever comes ---

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(("model", "name", "messages", "role", "content", "input", "options")),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
PATHS = st.sampled_from(
    (CHAT, "/api/create", "/api/copy", "/upstream/a/b", "/v1/responses", "/admin/models/", "/")
)


@given(body=JSON, path=PATHS)
def test_no_json_is_too_odd(body: Any, path: str) -> None:
    found = wanted(path, body)

    assert all(isinstance(name, str) and name for name in found.models)
    assert found.ctx >= 0


@given(
    body=st.binary(max_size=200),
    encoding=st.sampled_from(("", "gzip", "deflate", "br")),
    kind=st.sampled_from(("", "application/json", "multipart/form-data; boundary=x")),
    path=st.text(max_size=30).map("/".__add__) | PATHS,
    query=st.text(max_size=30),
    method=st.sampled_from(("GET", "POST", "PUT", "DELETE", "OPTIONS")),
)
def test_no_bytes_are_too_odd(
    body: bytes, encoding: str, kind: str, path: str, query: str, method: str
) -> None:
    headers = CIMultiDict({"Content-Encoding": encoding, "Content-Type": kind})

    assert isinstance(wanted_of(method, path, query, headers, body), Wanted)


def test_a_body_that_is_nested_too_deep_is_nobodys_conversation() -> None:
    deep = b'{"model": "m", "messages": ' + b"[" * 100_000

    assert wanted(body=deep).models == ("m",)
    closed = deep + b"]" * 100_000 + b"}"
    assert wanted(body=closed).models == ("m",)
