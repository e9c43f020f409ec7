"""What strangers may send to a route: what it accepts, and what is near that.

There is no schema of what the routes take, so it stands here: for each a body, a path or a query
that it understands. From these come others that are wrong in one place or in many.
"""

import gzip
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from hypothesis import strategies as st

from tests.fuzz.mutation import mutated

MODEL: Final = "tiny"
# The generated model says one token after the other; these are the most that anybody waits for.
SHORT: Final = 2
DIGEST: Final = "sha256:" + "0" * 64
TALK: Final = [{"role": "user", "content": "Hi"}]
TOOLS: Final = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
NAMED: Final = {"model": MODEL}
CHAT: Final = {**NAMED, "messages": TALK, "max_tokens": SHORT, "stream": True, "tools": TOOLS,
               "tool_choice": "auto", "response_format": {"type": "json_object"},
               "stop": ["x"], "seed": 1, "temperature": 0.5, "options": {"moe_cpu_layers": 1},
               "logprobs": False, "top_logprobs": None, "keep_alive": "5m"}  # fmt: skip
TEXT: Final = {**NAMED, "prompt": "Hi", "max_tokens": SHORT, "n_predict": SHORT, "stream": False,
               "logit_bias": [[1, 2.0]], "cache_prompt": True, "samplers": ["top_k"],
               "grammar": 'root ::= [a-z ]+ ("." root)?',
               "moe_cpu_layers": "0-1"}  # fmt: skip
RESPONSE: Final = {**NAMED, "input": [{"type": "message", "role": "user", "content": [
    {"type": "input_text", "text": "Hi"}]}], "instructions": "Be brief.",
    "max_output_tokens": SHORT,
    "text": {"format": {"type": "text"}}, "tools": [], "stream": True}  # fmt: skip
MESSAGE: Final = {**NAMED, "messages": TALK, "system": [{"type": "text", "text": "Be brief."}],
                  "max_tokens": SHORT, "stream": True, "thinking": {"type": "disabled"},
                  "tools": [{"name": "f", "input_schema": {"type": "object"}}],
                  "tool_choice": {"type": "auto"}, "metadata": {}}  # fmt: skip
INFILL: Final = {**NAMED, "input_prefix": "a", "input_suffix": "b", "n_predict": SHORT,
                 "json_schema": {"type": "object", "properties": {"a": {"enum": [1]}}},
                 "input_extra": [{"filename": "f", "text": "x"}]}  # fmt: skip
EMBEDDING: Final = {**NAMED, "input": ["Hi", "Ho"], "encoding_format": "float", "dimensions": 8}
RERANK: Final = {**NAMED, "query": "q", "documents": ["a", "b"], "top_n": 1}
OPTIONS: Final = {"num_predict": SHORT, "seed": 1, "stop": ["x"], "moe_cpu_layers": 1,
                  "temperature": 0.5, "num_ctx": 256, "num_thread": 2, "x": 1}  # fmt: skip
GENERATE: Final = {**NAMED, "prompt": "Hi", "suffix": "", "system": "s", "raw": False,
    "format": "json",
                   "think": False, "options": OPTIONS, "keep_alive": "5m", "stream": True,
                   "context": [1], "images": [], "logprobs": True, "top_logprobs": 1}  # fmt: skip
OLLAMA_CHAT: Final = {**NAMED, "messages": [{"role": "user", "content": "Hi", "tool_calls": []}],
                      "tools": [], "options": OPTIONS, "stream": True, "format": {}}  # fmt: skip
FORM: Final = (
    b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\n%s\r\n--x\r\nContent-Disposition: '
    b'form-data; name="file"; filename="x.wav"\r\n\r\nRIFF\r\n--x--\r\n' % MODEL.encode()
)
SPLIT: Final = {"moe_cpu_layers": "0-1"}
# Nothing of a registry is there to be had: where these names lead, nobody listens.
NOWHERE: Final = "127.0.0.1:9/a/b:c"
PULL: Final = {"model": NOWHERE, "insecure": True, "stream": True}
CREATE: Final = {"model": "mine", "from": MODEL, "files": {"x.gguf": DIGEST},
    "parameters": {"seed": 1},
                 "template": "{{ messages }}", "system": "s", "license": ["free"],
                 "messages": TALK, "quantize": "", "stream": True}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Takes:
    """What a route takes: a JSON body, or bytes; values for what its path leaves open; a query.

    `slow`: it loads or unloads a model. `endless`: its answer goes on until the client leaves.
    """

    body: Mapping[str, Any] | bytes | None = None
    path: Mapping[str, str] = field(default_factory=dict)
    query: str = ""
    slow: bool = False
    endless: bool = False


NOTHING: Final = Takes()
OF_MODEL: Final = {"name": MODEL}
ROUTES: Final[Mapping[tuple[str, str], Takes]] = {
    **{("POST", path): Takes(CHAT) for path in ("/v1/chat/completions", "/chat/completions")},
    **{("POST", path): Takes(TEXT) for path in ("/v1/completions", "/completions", "/completion")},
    **{("POST", path): Takes(RESPONSE) for path in ("/v1/responses", "/responses")},
    **{(method, f"{prefix}/responses/{{id}}"): Takes(path={"id": "resp_1"}, query="stream=false")
       for method in ("GET", "DELETE") for prefix in ("", "/v1")},
    ("POST", "/v1/messages"): Takes(MESSAGE),
    ("POST", "/infill"): Takes(INFILL),
    ("POST", "/v1/messages/count_tokens"): Takes(MESSAGE),
    **{("POST", f"{prefix}/chat/completions/input_tokens"): Takes(CHAT) for prefix in ("", "/v1")},
    **{("POST", f"{prefix}/responses/input_tokens"): Takes(RESPONSE) for prefix in ("", "/v1")},
    ("POST", "/tokenize"): Takes({**NAMED, "content": "Hi", "add_special": True,
    "with_pieces": True}),
    ("POST", "/detokenize"): Takes({**NAMED, "tokens": [1, 2]}),
    ("POST", "/apply-template"): Takes({**NAMED, "messages": TALK, "tools": TOOLS}),
    **{("POST", path): Takes(EMBEDDING) for path in ("/v1/embeddings", "/embeddings",
    "/embedding")},
    **{("POST", f"{prefix}/{name}"): Takes(RERANK)
       for prefix in ("", "/v1") for name in ("rerank", "reranking")},
    ("POST", "/v2/rerank"): Takes(RERANK),
    **{(method, "/props"): Takes(query=f"model={MODEL}") for method in ("GET", "HEAD")},
    **{(method, "/slots"): Takes(query=f"model={MODEL}&fail_on_no_slot=1")
       for method in ("GET", "HEAD")},
    **{(method, "/lora-adapters"): Takes(query=f"model={MODEL}") for method in ("GET", "HEAD")},
    ("POST", "/lora-adapters"): Takes(b'[{"id": 0, "scale": 1.0}]', query=f"model={MODEL}"),
    ("POST", "/slots/{id}"): Takes(b'{"filename": "x"}', {"id": "0"},
                                   f"action=save&model={MODEL}"),
    **{("POST", f"{prefix}/audio/transcriptions"): Takes(FORM) for prefix in ("", "/v1")},
    **{(method, path): Takes(path=OF_MODEL if "{" in path else {}) for method in ("GET", "HEAD")
       for path in ("/v1/models", "/v1/models/{name}", "/models", "/models/{name}")},
    **{(method, path): NOTHING for method in ("GET", "HEAD")
       for path in ("/health", "/v1/health", "/admin/state", "/running", "/metrics", "/",
                    "/api/version", "/api/status", "/api/tags", "/api/ps")},
    **{(method, "/unload"): Takes(slow=True) for method in ("GET", "HEAD")},
    ("GET", "/admin/events"): Takes(query="after=1", endless=True),
    ("PUT", "/admin/backends/{id}/split"): Takes(SPLIT, {"id": "tiny-1"}),
    ("POST", "/admin/models/{name}/load"): Takes(path=OF_MODEL),
    ("POST", "/admin/models/{name}/unload"): Takes(path=OF_MODEL, slow=True),
    ("PUT", "/admin/models/{name}/split"): Takes(SPLIT, OF_MODEL),
    **{(method, "/admin/policies/{file}"): Takes(path={"file": "policies.toml"})
       for method in ("GET", "HEAD")},
    ("PUT", "/admin/policies/{file}"): Takes(b"[server]\nmax_queue = 3\n",
    {"file": "policies.toml"}),
    ("POST", "/admin/policies/{file}/check"): Takes(b"[server]\nmax_queue = 3\n",
    {"file": "policies.toml"}),
    **{(method, "/admin/policies/{file}/versions"): Takes(path={"file": "policies.toml"})
       for method in ("GET", "HEAD")},
    **{(method, "/admin/policies/{file}/versions/{version}"):
       Takes(path={"file": "policies.toml", "version": "20260101T000000000000Z"})
       for method in ("GET", "HEAD")},
    **{(method, "/admin/requests"): NOTHING for method in ("GET", "HEAD")},
    ("POST", "/admin/requests/{id}/cancel"): Takes(path={"id": "some"}),
    **{(method, "/admin/backends/{id}/splits"): Takes(path={"id": "tiny-1"})
       for method in ("GET", "HEAD")},
    **{(method, "/admin/models/{name}/plan"): Takes(path=OF_MODEL, query="vram=1GiB&ctx=512")
       for method in ("GET", "HEAD")},
    **{("POST", f"/admin/models/{{name}}/{verb}"): Takes(path=OF_MODEL)
       for verb in ("pin", "unpin")},
    **{(method, path): Takes(path={"file": "js/main.js"} if "{" in path else {})
       for method in ("GET", "HEAD") for path in ("/ui", "/ui/needs-key", "/ui/{file}")},
    **{(method, path): Takes(path={"model": MODEL} if "{" in path else {})
       for method in ("GET", "HEAD") for path in ("/logs", "/logs/{model}")},
    ("GET", "/logs/stream"): Takes(query="no-history", endless=True),
    ("GET", "/logs/stream/{model}"): Takes(path={"model": MODEL}, endless=True),
    ("*", "/upstream/{rest}"): Takes(TEXT, {"rest": f"{MODEL}/v1/completions"}),
    ("POST", "/api/pull"): Takes(PULL),
    ("POST", "/api/create"): Takes(CREATE),
    ("POST", "/api/copy"): Takes({"source": MODEL, "destination": "other"}),
    ("DELETE", "/api/delete"): Takes({"model": "other", "name": ""}),
    ("HEAD", "/api/blobs/{digest}"): Takes(path={"digest": DIGEST}),
    ("POST", "/api/blobs/{digest}"): Takes(b"GGUF", {"digest": DIGEST}),
    ("POST", "/api/push"): Takes({"model": MODEL, "stream": False}),
    ("POST", "/api/show"): Takes({**NAMED, "verbose": True, "system": "s"}),
    ("POST", "/api/generate"): Takes(GENERATE),
    ("POST", "/api/chat"): Takes(OLLAMA_CHAT),
    ("POST", "/api/embed"): Takes({**EMBEDDING, "truncate": True, "options": OPTIONS}),
    ("POST", "/api/embeddings"): Takes({**NAMED, "prompt": "Hi", "options": OPTIONS}),
    **{("POST", f"/api/{path}"): Takes({"query": "x"})
       for path in ("me", "signout", "web_search", "web_fetch", "experimental/web_search",
                    "experimental/web_fetch")},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as it goes over the wire."""

    method: str
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    chunked: bool

    def encode(self) -> bytes:
        lines = [self.method.encode() + b" " + self.target + b" HTTP/1.1"]
        lines += [name + b": " + value for name, value in self.headers]
        if self.chunked:
            size = b"%x\r\n%s\r\n" % (len(self.body), self.body) if self.body else b""
            lines.append(b"Transfer-Encoding: chunked")
            rest = size + b"0\r\n\r\n"
        else:
            lines.append(b"Content-Length: %d" % len(self.body))
            rest = self.body
        return b"\r\n".join(lines) + b"\r\n\r\n" + rest


# What no field of a body ought to be. Long ones are as long as a body may be here.
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([10**400, -(2**63), 2**31, 2**64, 1e308, -1, 0, "", "\0", "\ud800", "../..",
                       "x" * 60_000, "9" * 5000, "null", "\u202e", "1e999"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["type", "content", "text", "role", "name", "image_url",
                                       "function", "url"]) | st.text(max_size=4), inner,
                                       max_size=4),
    max_leaves=6,
)  # fmt: skip
# Names of models, which are names of nothing, or of what is here.
names = st.sampled_from(
    [MODEL, MODEL, f"{MODEL}?moe_cpu_layers=1", f"{MODEL}?x", f"{MODEL}:latest", "", "?", "none",
     "../x", "a/b/c/d/e", "x" * 5000, "http://127.0.0.1:9/a/b", NOWHERE, "\0", "-1", " ",
     "none:cloud"]
)  # fmt: skip
FIELDS_OF_NAMES: Final = frozenset({"model", "name", "source", "destination", "from"})
# These say how a model is loaded, or for how long: another number means another process.
LOADING: Final = {
    "num_ctx": st.sampled_from([256, 0, -1, "x", None, [], 1.5, True, 10**30]),
    "keep_alive": st.sampled_from(["5m", -1, "x", [], "1e999", 10**30, "-1h"]),
    "ctx": st.just(None),
}


@st.composite
def changed(draw: st.DrawFn, body: Mapping[str, Any]) -> dict[str, Any]:
    """A body of which some fields are something else, one level deep or two."""
    made = dict(body)
    for name in draw(st.lists(st.sampled_from(sorted(made)), max_size=3, unique=True)):
        value = made[name]
        if isinstance(value, dict) and value and draw(st.booleans()):
            inner = draw(st.sampled_from(sorted(value)))
            made[name] = {**value, inner: draw(LOADING.get(inner, values))}
        elif name in FIELDS_OF_NAMES:
            made[name] = draw(names)
        elif draw(st.integers(0, 5)) == 0:
            del made[name]
        else:
            made[name] = draw(LOADING.get(name, values))
    if draw(st.integers(0, 4)) == 0:
        made[draw(st.text(max_size=5))] = draw(values)
    return made


def _dumped(body: Mapping[str, Any]) -> bytes:
    # As JSON's own escapes, lone surrogates too; NaN and numbers without end as Python writes them.
    return json.dumps(body).encode()


# What nobody looks at before somebody wants to know whether there is a picture, or which tool.
UNSEEN: Final = tuple(
    b'{"model": "tiny", "messages": [{"role": "user", "content": [{"type": "image_url", "x": %s}]}]'
    b', "input": [{"type": "input_image", "x": %s}], "tools": [%s], "tool_choice": {"x": %s},'
    b'"%s": 1}' % (value, value, value, value, key)
    for value, key in ((b"1e999", b"x"), (b'"\\ud800"', b"x"), (b"1", b"\\ud800"))
)
RAW: Final = (
    *UNSEEN,
    b"", b" ", b"null", b"[]", b"{}", b'"x"', b"1", b"NaN", b"{", b"\0", b"\xff\xfe", b"[" * 50_000,
    b'{"a":' * 9_000, b'{"model": "tiny", "x": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    b'{"model": "tiny", "model": "none", "prompt": "\xff"}',
    b'{"model": "tiny", "prompt": "\\ud800"}',
    b'{"model": "tiny", "n": ' + b"9" * 50_000 + b"}", b'{"model": "tiny", "x": NaN}',
    b"{" + b",".join(b'"k%d": 1' % number for number in range(9_000)) + b"}",
    b'{"model": "tiny", "messages": [' + b",".join([b"{}"] * 9_000) + b"]}",
    b"\xef\xbb\xbf" + b'{"model": "tiny"}', b"model=tiny&prompt=x", b"--x\r\n\r\n--x--\r\n",
)  # fmt: skip


def bodies(takes: Takes) -> st.SearchStrategy[bytes]:
    if takes.body is None:
        return st.just(b"") | st.sampled_from(RAW)
    if isinstance(takes.body, bytes):
        return st.just(takes.body) | mutated([takes.body], [b"\0", b"\xff", b"[", b"= 1\n"])
    whole = changed(takes.body).map(_dumped)
    if "insecure" in takes.body:  # what is pulled is not to be found by chance
        return st.just(_dumped(takes.body)) | whole | st.sampled_from(RAW)
    # Most are understood by somebody.
    return whole | whole | st.just(_dumped(takes.body)) | st.sampled_from(RAW) | mutated(
        [_dumped(takes.body)], [b"null", b"[", b"}", b"\xff", b'"', b"9" * 40]
    )  # fmt: skip


PIECES: Final = (
    MODEL, "none", "..", "%2e%2e", "%2F", "%2f..%2f..%2fetc/passwd", "%00", "%0d%0aX: y", "%ff",
    "%",
    "%zz", "%u0041", "a" * 2000, "a/" * 1000, "/" * 500, "//", "", "~", "é", "\udcff", ";", ":",
    "*",
    "?", "%3F", "%C3%A9", "[", "\\", "{", "load", "split", "v1/models", "props", "slots", "metrics",
    "health", "v1/chat/completions", "tiny-1", DIGEST, "policies.toml", "+", "%20", "|", "^", "'",
    "<",
)  # fmt: skip
pieces = st.sampled_from(PIECES) | st.text(max_size=5).map(lambda text: quote(text, safe=""))
queries = st.lists(
    st.sampled_from(["model", "after", "no-history", "x", "%00", "", "%ff", "action",
    "verbose"]).flatmap(
        lambda name: pieces.map(lambda value: f"{name}={value}")
    ), max_size=3,
).map("&".join)  # fmt: skip


@st.composite
def targets(draw: st.DrawFn, path: str, takes: Takes) -> bytes:
    """A path of this route, with its query."""
    for name, value in takes.path.items():
        given = value if draw(st.integers(0, 2)) else draw(
            st.lists(pieces, min_size=1, max_size=3).map("/".join)
        )  # fmt: skip
        path = path.replace(f"{{{name}}}", given)
    query = draw(st.just(takes.query) | st.just(takes.query) | queries)
    return _wire(f"{path}?{query}" if query else path)


def _wire(text: str) -> bytes:
    """As bytes of a request line: blanks and ends of lines would be another request."""
    data = text.encode("utf-8", "surrogateescape")
    return bytes(byte for byte in data if byte > 32 and byte != 127)[:7000] or b"/"


def _value(data: bytes) -> bytes:
    return data.translate(None, b"\r\n\0")


NAMES: Final = (
    b"Host", b"Origin", b"Authorization", b"X-Api-Key", b"Content-Type", b"Accept",
    b"Accept-Encoding",
    b"X-Request-Id", b"Last-Event-ID", b"Cookie", b"Range", b"If-None-Match", b"If-Modified-Since",
    b"Forwarded", b"X-Forwarded-For", b"Via", b"TE", b"User-Agent", b"Referer", b"Sec-Fetch-Site",
    b"Sec-Fetch-Mode", b"Sec-Fetch-Dest", b"anthropic-version", b"X-Moe-Proxy-Backend",
    b"Access-Control-Request-Method", b"Access-Control-Request-Headers", b"Expect", b"Keep-Alive",
    b"Cache-Control", b"Date", b"X-\xc3\xa9", b"Content-MD5", b"Proxy-Authorization", b"DNT",
)  # fmt: skip
header_values = st.binary(max_size=12).map(_value) | st.sampled_from([
    b"", b"\xff", b"\xc3\xa9", b"x" * 4000, b"null", b"http://localhost", b"https://evil.test",
    b"::1%\xff",
    b"Bearer \xe9", b"Basic !", b"Basic OnPDqQ==", b"100-continue", b"99999999999999999999", b"-1",
    b"cross-site", b"bytes=0-", b"application/json", b"text/plain; charset=\xff", b"gzip;q=0",
    b"multipart/form-data; boundary=", b"application/json; charset=utf-16", b"[::1]:99999",
    b"a,b,c",
])  # fmt: skip
headers = st.lists(st.tuples(st.sampled_from(NAMES), header_values), max_size=4)


def _encoded(body: bytes, encoding: str) -> bytes:
    match encoding:
        case "gzip":
            return gzip.compress(body, mtime=0)
        case "deflate":
            return zlib.compress(body)
        case "bomb":
            return gzip.compress(bytes(8 << 20), mtime=0)
        case _:
            return body


ENCODINGS: Final = ("gzip", "deflate", "bomb", "garbage", "br", "zstd", "x", "gzip, gzip")


@st.composite
def requests(draw: st.DrawFn, method: str, path: str, takes: Takes) -> Sent:
    """A request to a route. Half of them are strange in their body alone."""
    verb = (
        draw(st.sampled_from(["POST", "POST", "GET", "PUT", "DELETE"])) if method == "*" else method
    )
    body = draw(bodies(takes))
    plain = draw(st.booleans())
    target = _wire(_filled(path, takes)) if plain else draw(targets(path, takes))
    given = [(b"Host", b"localhost"), *([] if plain else draw(headers))]
    chunked = draw(st.booleans())
    if not plain and draw(st.integers(0, 4)) == 0:
        encoding = draw(st.sampled_from(ENCODINGS))
        name = {"bomb": "gzip", "garbage": "gzip"}.get(encoding, encoding)
        given.append((b"Content-Encoding", name.encode()))
        body = _encoded(body, encoding)
    return Sent(verb, target, tuple(given), body, chunked)


def _filled(path: str, takes: Takes) -> str:
    for name, value in takes.path.items():
        path = path.replace(f"{{{name}}}", value)
    return f"{path}?{takes.query}" if takes.query else path


METHODS: Final = ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD", "PROPFIND")


@st.composite
def anywhere(draw: st.DrawFn) -> Sent:
    """A request to a path that nobody may have thought of."""
    parts = draw(st.lists(st.sampled_from(("v1", "api", "admin", "models", "policies", "upstream",
                                           "blobs", "logs", "ui")) | pieces,
                                           max_size=5))  # fmt: skip
    start = draw(
        st.sampled_from(["/", "/", "/", "//", "http://localhost/", "http://evil.test/", "*", "x"])
    )
    target = _wire(start + "/".join(parts))
    given = [(b"Host", b"localhost"), *draw(headers)]
    method = draw(st.sampled_from(METHODS))
    return Sent(method, target, tuple(given), draw(st.sampled_from(RAW[:8])), False)
