"""What reads bytes of strangers, one function for each: any bytes may come, and only the `refusals`
of each may be raised. `test_targets.py` has them read a few hundred texts each time, `run.py` has a
fuzzer look for others as long as one likes.

Where there is something to say of the result, the function says it by an assertion.
"""

import gzip
import json
import os
import re
import tempfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import msgspec

from proxy.api.hosts import is_ours, names_of, split_host
from proxy.api.key_file import parse_keys
from proxy.api.openai.kept import KeptResponses
from proxy.api.options import read_model, read_model_request
from proxy.api.origins import Visit, refusal, rules
from proxy.api.paths import plain_path
from proxy.api.unpack import MOST_AT_ONCE, unpacker_of
from proxy.catalog import templates
from proxy.catalog.entry import Entry, Message
from proxy.catalog.gguf import GgufError
from proxy.catalog.gguf_reader import read_beginning, read_header
from proxy.catalog.manifest import BadManifest, encode_manifest, parse_manifest
from proxy.catalog.modelfile import ModelfileError, parse_modelfile
from proxy.catalog.parameters import BadParameter, from_json, from_manifest
from proxy.catalog.reference import BadName, parse_reference
from proxy.catalog.summary import summarise, summary_of
from proxy.dialect.anthropic.answers import MessageStream
from proxy.dialect.anthropic.request import to_chat
from proxy.dialect.body import Body
from proxy.dialect.called import CallStream
from proxy.dialect.forced_call import PLAIN, Calling, force_call
from proxy.dialect.form import check_form, form_fields
from proxy.dialect.lenient import mend_text, read_object
from proxy.dialect.media import has_media
from proxy.dialect.ollama import models, requests
from proxy.dialect.ollama.answers import Durations, Endpoint, Writer
from proxy.dialect.ollama.events import Event, Failure
from proxy.dialect.ollama.modelfile import modelfile as write_modelfile
from proxy.dialect.ollama.reading import read_chat, read_completion
from proxy.dialect.ollama.reasoning import FAMILIES, NO_MARKS, telling_apart
from proxy.dialect.ollama.sse import SseDecoder, SseError
from proxy.dialect.openai.checks import check_chat
from proxy.dialect.openai.requests import REPEATED, Asked, read_asked
from proxy.dialect.openai.response import Response
from proxy.dialect.openai.stream import responding
from proxy.dialect.openai.tools import Tools
from proxy.dialect.preamble import Preamble, add_preamble
from proxy.dialect.rewrite import Rewrite
from proxy.dialect.tool_choice import narrow_tools
from proxy.engine.llama_args import refused_config
from proxy.errors import BadRequest, EngineSaid, ProxyError
from proxy.placement.estimate import Settings, estimate
from proxy.policy.document import parse_document
from proxy.policy.environment import parse_host, read_environment
from proxy.policy.load import parse
from proxy.policy.local_keys import local_changes
from proxy.policy.sources import Sources
from proxy.policy.units import parse_duration, parse_keep_alive, parse_size
from proxy.split import parse_split, plain
from tests.fuzz.requests import RESPONSE
from tests.fuzz.small_gguf import small_header
from tests.support.models import model

ROOT: Final = Path(__file__).parents[2]
# Larger than any input: what the file of a header says is there can be there, and takes no room.
FILE_BYTES: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Target:
    """`seeds` are inputs to begin with, none of which is refused; `words` are worth putting into
    one."""

    read: Callable[[bytes], None]
    refusals: tuple[type[Exception], ...]
    seeds: Callable[[], list[bytes]]
    words: tuple[bytes, ...]

    def feed(self, data: bytes) -> None:
        """Have it read this, whatever it is."""
        with suppress(*self.refusals):
            self.read(data)


@cache
def _file() -> Path:
    """One file for all headers, of this process."""
    handle, name = tempfile.mkstemp(suffix=".gguf")
    os.close(handle)
    return Path(name)


def remove_file() -> None:
    _file().unlink(missing_ok=True)
    _file.cache_clear()


def gguf(data: bytes) -> None:
    """The first byte says whether the file is as long as the header wants."""
    content = data[1:]
    read_gguf(content, FILE_BYTES if data[:1] > b"\x7f" else len(content))


def read_gguf(content: bytes, length: int) -> None:
    """A file that begins with `content` and is so long. Raises GgufError."""
    path = _file()
    path.write_bytes(content)
    os.truncate(path, length)
    with suppress(GgufError):
        read_beginning(path)
    with suppress(GgufError):
        summarise(path)
    header = read_header(path)
    estimate(header, Settings(ctx=4096))
    entry = Entry("x", path, (path,), length, 0.0)
    models.abilities(entry, header)
    models.capabilities(entry, summary_of(header))
    told = models.model_info(header), models.tensors(header)
    msgspec.json.encode(told)
    write_modelfile("x", entry, {}, has_template=bool(models.template_of(entry, header)))


def manifest(data: bytes) -> None:
    found = parse_manifest(data)
    assert parse_manifest(encode_manifest(found)) == found


def modelfile(data: bytes) -> None:
    found = parse_modelfile(data.decode("utf-8", "replace"))
    json.dumps(found.parameters, allow_nan=False)
    with suppress(BadParameter):
        from_json(found.parameters)


def parameters(data: bytes) -> None:
    given = msgspec.json.decode(data, type=dict[str, Any])
    with suppress(BadParameter):
        json.dumps(from_manifest(given), allow_nan=False)
    json.dumps(from_json(given), allow_nan=False)


def policies(data: bytes) -> None:
    """And a change of one text into another: where there is a NUL, it stands between them."""
    file = Path("/etc/x.toml")
    loaded = parse(Sources(((file, data),)), {"HOME": "/home"})
    assert (loaded.policies is None) == bool(loaded.problems)
    msgspec.json.encode([str(problem) for problem in loaded.problems])
    document = parse_document(file, data)
    if not document.problems:
        assert all(entry.path in document.lines for entry in document.entries)
        assert local_changes(file, data, data) == []
    old, _, new = data.partition(b"\0")
    local_changes(file, old, new)


def environment(data: bytes) -> None:
    """Lines of NAME=VALUE."""
    lines = data.decode("utf-8", "replace").splitlines()
    env = dict(line.partition("=")[::2] for line in lines if "\0" not in line)
    read_environment(env)
    with suppress(ValueError):
        parse_host(data.decode("utf-8", "replace"))
    list(refused_config(data.decode("utf-8", "replace")))


def origins(data: bytes) -> None:
    """The first line is what browsers say, the second the Host, the rest what is allowed."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    origin, host, *allowed = [*lines, "", ""]
    # As they are read from the environment.
    found = read_environment({"OLLAMA_ORIGINS": ",".join(allowed)})
    patterns = found.wins.get("server.origins", found.defaults.get("server.origins", ()))
    # A bad one has the whole set refused.
    made = rules(frozenset({"name"}), () if found.problems else patterns)
    for said in (origin, f"https://{origin}", f"app://{origin}"):
        why = refusal(made, Visit(host, host, said, "", ""))
        assert why is None or why.isascii()
    refusal(made, Visit(host, host, "", origin, "action", "", "", "Mozilla/5.0", origin))


def hosts(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    split_host(text)
    is_ours(text, frozenset({"name"}))
    names_of("name", text, text[:200])


def lenient(data: bytes) -> None:
    """What is taken is JSON, and means the same when it is read again."""
    text = mend_text(data)
    text.decode()
    assert mend_text(text) == text
    read = read_object(data).encode()
    assert read_object(read).encode() == read


def form(data: bytes) -> None:
    """The first line is the Content-Type."""
    kind, _, rest = data.partition(b"\n")
    with suppress(BadRequest):
        check_form(form_fields(kind.decode("utf-8", "surrogateescape"), rest))


def paths(data: bytes) -> None:
    path = "/" + data.decode("utf-8", "surrogateescape")
    plain_one = plain_path(path)
    assert plain_one.startswith("/")
    assert not plain_one.startswith("//")
    # Whoever judges the first one judges all.
    assert plain_path(plain_one) == plain_one


def packed(data: bytes) -> None:
    for encoding in ("gzip", "deflate"):
        unpacker = unpacker_of(encoding)
        assert unpacker is not None
        with suppress(BadRequest):
            for piece in unpacker.pieces(data):
                assert 0 < len(piece) <= MOST_AT_ONCE
            unpacker.end()


def keys(data: bytes) -> None:
    found, problems = parse_keys(data)
    msgspec.json.encode([problems, [key.name for key in found]])
    assert all(key.secret and key.secret not in " ".join(problems).encode() for key in found
               if len(key.secret) > 40)  # fmt: skip


def values(data: bytes) -> None:
    """What stands in one value: sizes, times, splits, names."""
    text = data.decode("utf-8", "replace")
    for read in (parse_size, parse_duration, parse_keep_alive):
        with suppress(ValueError):
            read(text)
    with suppress(BadRequest):
        split = parse_split(text)
        assert parse_split(plain(split)) == split
    with suppress(BadRequest):
        read_model(text)
    with suppress(BadName):
        reference = parse_reference(text)
        assert parse_reference(reference.short).folded == reference.folded
        assert ".." not in reference.path.parts


def template(data: bytes) -> None:
    """Only what is not tried: a trial is a process of its own, with bounds of its own."""
    text = data.decode("utf-8", "replace")
    templates.kind_of(text)
    if not templates.may_be_endless(text):
        templates.problem_of_jinja(text)


PREAMBLE: Final = Preamble("Be brief.", (Message("user", "Hi"), Message("assistant", "Ho")))


def body(data: bytes) -> None:
    """A request that goes on: it is JSON still, and says what it said."""
    try:
        read_model_request(data, models=list)
    except BadRequest as error:
        msgspec.json.encode([error.message, error.param])
        raise
    said = msgspec.json.decode(data)  # what is skipped above may be wrong still
    made = Body(data)
    with suppress(RecursionError, BadRequest):
        made.add_defaults({"temperature": 0.5, "top_k": 3})
        has_media(made)
        add_preamble(made, PREAMBLE)
        narrow_tools(made)
        sent = msgspec.json.decode(made.encode())
        changed = {"messages", "tools", "tool_choice"}
        assert {**sent, **dict.fromkeys(changed)} == {
            "temperature": 0.5, "top_k": 3, **said, **dict.fromkeys(changed)
        }  # fmt: skip


def messages(data: bytes) -> None:
    """A request for a message: a chat that a call can be asked of, in any of the ways."""
    for calling in (PLAIN, Calling(names_choice=True), Calling(False, opener="<call>")):
        made = Body.of(to_chat(Body(data).fields))
        narrow_tools(made)
        force_call(made, calling)
        msgspec.json.decode(made.encode())


def message_events(data: bytes) -> None:
    """An engine's answer as a message's events, and as a call: in pieces of any size the same."""
    for make in (lambda: MessageStream(("x",)), CallStream):
        whole, pieces = (_rewritten(make(), data, size) for size in (len(data) or 1, 7))
        assert _without_ids(whole) == _without_ids(pieces)


def _rewritten(rewrite: Rewrite, data: bytes, size: int) -> bytes:
    try:
        said = [rewrite.feed(data[at : at + size]) for at in range(0, len(data), size)]
    except EngineSaid:
        return b""  # what came before depends on how it was cut
    return b"".join((*said, rewrite.end()))


def _without_ids(events: bytes) -> bytes:
    """The ids of calls are made up."""
    return re.sub(rb'"id":"\w{9}"', b"", events)


OLLAMA: Final[tuple[type[requests.Body], ...]] = (
    requests.GenerateBody,
    requests.ChatBody,
    requests.EmbedBody,
    requests.EmbeddingsBody,
)


def response(data: bytes) -> None:
    """A request for a response: a chat that is JSON, or a reason why not."""
    made = Body(data)
    asked = read_asked(made, partial(KeptResponses().expand, owner="me"))
    chat = Body.of(asked.chat)
    msgspec.json.encode(asked.repeats)
    check_chat(chat)
    add_preamble(chat, PREAMBLE)
    has_media(chat)


def response_events(data: bytes) -> None:
    """What an engine streams, in pieces of any size: the same events."""
    whole, pieces = (_events_of(data, size) for size in (len(data) or 1, 7))
    assert whole == pieces


def _events_of(data: bytes, size: int) -> bytes:
    asked = Asked({}, [], REPEATED, Tools(custom=frozenset({"get_weather"})))
    make = partial(Response, asked, lambda prefix: prefix, lambda: 0.0)
    made = responding(make, lambda kept: None)(True)
    assert made is not None
    try:
        told = [made.feed(data[at : at + size]) for at in range(0, len(data), size)]
        told.append(made.end())
    except EngineSaid:
        return b"refused"
    # Signs of life pass as they come, in whatever pieces.
    return b"\n\n".join(e for e in b"".join(told).split(b"\n\n") if e.startswith(b"event:"))


def ollama_body(data: bytes) -> None:
    for kind in OLLAMA:
        with suppress(BadRequest):
            found = requests.read(data, kind)
            msgspec.json.encode(dict(found.read_options().sampling))
            _ = found.keep_alive_s
            if isinstance(found, requests.GenerateBody | requests.ChatBody):
                found.check()
            if isinstance(found, requests.EmbedBody):
                _ = found.texts


def events(data: bytes) -> None:
    """What an engine streams, in pieces of any size: the same lines for a client."""
    kinds: Mapping[Endpoint, Callable[[bytes], list[Event]]] = {
        "chat": read_chat,
        "generate": read_completion,
    }
    for endpoint, read in kinds.items():
        for marks in (NO_MARKS, *FAMILIES):
            whole, pieces = (
                _told(endpoint, telling_apart(read, marks, thinks=False), data, size)
                for size in (len(data) or 1, 7)
            )
            assert whole == pieces


def _told(
    endpoint: Endpoint, read: Callable[[bytes], list[Event]], data: bytes, size: int
) -> list[bytes]:
    decoder = SseDecoder()
    lines: list[bytes] = []
    writer = Writer(endpoint, "m", stream=True)
    with suppress(SseError, msgspec.DecodeError):
        for start in range(0, len(data), size):
            for text in decoder.feed(data[start : start + size]):
                for event in read(text):
                    if isinstance(event, Failure):
                        return lines
                    lines.append(writer.write(event, "now"))
        lines.append(writer.end("now", Durations(1, 1)))
    return lines


def _headers() -> list[bytes]:
    shapes = ("qwen3moe", "gpt-oss", "deepseek2")
    return [b"\xff" + small_header(model(shape, layers=2)) for shape in shapes]


def _json(*values: object) -> Callable[[], list[bytes]]:
    return lambda: [json.dumps(value).encode() for value in values]


DIGEST: Final = "sha256:" + "0" * 64
JSON_WORDS: Final = (
    b"null", b"true", b"-1", b"1e999", b"9" * 400, b"2147483648", b"18446744073709551616", b"[]",
    b"{}", b'""', b"[" * 200, b'{"a":' * 200, b"\\ud800", b"\\u0000", b"\xff", b"\xef\xbb\xbf",
    b",", b"NaN", b'"x":', b'"model":', b'"messages":', b'"tools":', b'"tool_choice":',
)  # fmt: skip
TOML_WORDS: Final = (
    b"[models.x]", b"[[models]]", b"[defaults]", b"[server]", b"[devices]", b'"""', b"'''",
    b"ctx = 1", b"path", b'"m"', b"args = [", b"]", b"{", b"}", b"1979-05-27 07:32:00", b"nan",
    b"inf",
    b"0x", b"\\u0000", b"a.b.c", b"=", b"#", b"\n", b"\r\n", b"\0", b"origins = ['*']", b"9" * 5000,
    b'alias = "x"', b'base = "m"', b"moe_cpu_layers = '0-3'", b"\xef\xbb\xbf", b"[a.", b"a = [",
)  # fmt: skip
CHAT: Final = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url"}]},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "options": {"moe_cpu_layers": "0-3,5", "num_ctx": 4096},
    "keep_alive": "5m",
    "stream": True,
    "input": [{"role": "user", "content": "x"}],
    "format": {"type": "object"},
    "think": "high",
}
STREAM: Final = (
    b'data: {"choices":[{"delta":{"content":"<think>a</think>b"},"finish_reason":null}]}\n\n'
    b'data: {"choices":[{"delta":{"reasoning_content":"a","tool_calls":[{"index":0,"id":"1",'
    b'"function":{"name":"f","arguments":"{}"}}]},"finish_reason":"stop",'
    b'"logprobs":{"content":[{"token":"x","logprob":-1,"top_logprobs":[]}]}}],'
    b'"timings":{"prompt_n":3,"prompt_ms":1.5,"predicted_n":3,"predicted_ms":2.5}}\n\n'
    b"data: [DONE]\n\n"
)
CALL_STREAM: Final = (
    b'data: {"choices":[{"delta":{"role":"assistant","content":null}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":"{\\"name\\": \\"f\\", \\"arguments\\": {"}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":"\\"a\\": [1, \\"}\\"]}}"}}]}\n\n'
    b'data: {"choices":[{"delta":{},"finish_reason":"stop"}],"__verbose":{"stopping_word":"x"}}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\ndata: [DONE]\n\n'
)
COMPLETION: Final = (
    b'data: {"content":"<|channel|>analysis<|message|>x","stop":false}\r\n\r\n: a comment\n\n'
    b'data: {"content":"","stop":true,"stop_type":"limit","timings":{"cache_n":1,"prompt_n":2}}\n\n'
)

MESSAGE: Final = {
    **{"model": "m", "max_tokens": 5, "stream": True, "system": [{"type": "text", "text": "s"}]},
    "messages": [
        {"role": "user", "content": [{"type": "image", "source": {"type": "base64", "data": "x"}}]},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}],
        },
    ],
    "tools": [{"name": "f", "input_schema": {"type": "object"}}],
    "tool_choice": {"type": "any"},
    "thinking": {"type": "enabled", "budget_tokens": 5},
    "metadata": {"user_id": "x"},
}

# What becomes of them is not looked at here, but told by those who decode.
NOT_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

TARGETS: Final[Mapping[str, Target]] = {
    "gguf": Target(gguf, (GgufError,), _headers, (b"\xff" * 8, bytes(8), b"\1" + bytes(7),
    b"GGUF\3", b"\x09\0\0\0")),
    "manifest": Target(
        manifest, (BadManifest,),
        _json({
            "schemaVersion": 2, "mediaType": "x",
            "config": {"mediaType": "x", "digest": DIGEST, "size": 1},
            "layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": DIGEST,
                        "size": 3, "from": "/x", "name": "a-00001-of-00002.gguf"}],
        }),
        (*JSON_WORDS, b"sha256-", b'"layers":', b'"config":', b"..", b"/"),
    ),
    "modelfile": Target(
        modelfile, (ModelfileError,),
        lambda: [
            b'FROM ./x.gguf\nPARAMETER num_ctx 4096\nPARAMETER stop "</s>"\nSYSTEM """a\nb"""\n'
            b"TEMPLATE {{ .Prompt }}\nMESSAGE user Hi\nMESSAGE assistant Ho\nLICENSE x\n",
            b"# c\nfrom m\nADAPTER y\nPARAMETER moe_cpu_layers 0-3\nPARSER z\n",
        ],
        (b'"""', b'"', b"\n", b"FROM ", b"PARAMETER ", b"MESSAGE ", b"nan", b"1e999", b"9" * 400,
         b"\xef\xbb\xbf", b"\t", b"temperature", b"seed", b"\xe2\x80\xa8", b"\x1c", b"#"),
    ),
    "parameters": Target(
        parameters, (BadParameter, *NOT_JSON),
        _json({"seed": 1, "stop": ["x"], "temperature": 0.5, "use_mmap": True, "num_ctx": 4096,
               "moe_cpu_layers": "0-3"}),
        (*JSON_WORDS, b'"seed":', b'"stop":', b'"temperature":'),
    ),
    "policies": Target(
        policies, (),
        lambda: [
            b"\n".join(line.removeprefix(b"# ") for line in
                       (ROOT / "policies" / "default.toml").read_bytes().splitlines()),
            b'[models."a:b"]\npath = "/x.gguf"\naliases = ["c"]\nparams = {temperature = 0.5}\n'
            b'[models.d]\nbase = "a:b"\nmoe_cpu_layers = "0-3,7"\n[server]\norigins = ["app://*"]\n',
        ],
        TOML_WORDS,
    ),
    "environment": Target(
        environment, (),
        lambda: [b"OLLAMA_HOST=http://[::1]:8080\nOLLAMA_ORIGINS=https://*.x,null\n"
                 b"OLLAMA_KEEP_ALIVE=5m\nOLLAMA_CONTEXT_LENGTH=4096\nMOE_PROXY_MOE_OFFLOAD=auto\n",
                 b"[*]\nhost = 0.0.0.0\ntools = all\n"],
        (b"OLLAMA_HOST=", b"[::1]", b":65536", b"9" * 5000, b"\xc2\xb2", b"://", b"\n", b'"'),
    ),
    "origins": Target(
        origins, (),
        lambda: [b"https://a.example.com\nlocalhost:11434\nhttps://*.example.com\nhttp://192.168.*:*",
                 b"app://x\n[::1]\n*a*a*a*a*", b"null\nname\nnull\n*"],
        (b"*", b"*.", b"a", b"." * 1000, b"a." * 2000, b"://", b"[", b"]", b":", b"\xff", b"\n"),
    ),
    "hosts": Target(
        hosts, (),
        lambda: [b"127.0.0.1 name name.local # x", b"[fe80::1%eth0]:80", b"localhost.:11434"],
        (b"." * 2000, b"a." * 2000, b"[", b"]", b"%", b":", b"::", b"\xff", b"0x7f", b"9" * 4000),
    ),
    "lenient": Target(
        lenient, NOT_JSON,
        _json(CHAT, {"Model": "m", "Messages": [{"Role": "user", "Content": None}]}),
        (*JSON_WORDS, b"\\ud83d", b"\\ude00", b"\\\\", b"\xe9", b":null", b'"Role"', b'"MODEL":',
         b"}", b"{" * 50),
    ),
    "form": Target(
        form, (),
        lambda: [b"multipart/form-data; boundary=x\n--x\r\nContent-Disposition: form-data; "
                 b'name="model"\r\n\r\nm\r\n--x\r\nContent-Disposition: form-data; name="f"; '
                 b'filename="a"\r\n\r\nRIFF\r\n--x--\r\n'],
        (b"--x\r\n", b"\r\n\r\n", b'name="', b"filename*=utf-8''x", b";", b"boundary=", b'"',
         b"\xff", b"\n", b"a: b\r\n" * 200),
    ),
    "paths": Target(
        paths, (),
        lambda: [b"v1/chat/completions/", b"/api//v1/models/a", b"v1/api/api/chat",
                 b"upstream/m//slots/", b"ui/"],
        (b"/", b"//", b"v1/", b"api/", b"/v1/api" * 500, b"/" * 5000, b"%2F", b"..", b"\xff"),
    ),
    "packed": Target(
        packed, (),
        lambda: [gzip.compress(b"{}" * 1000), zlib.compress(b"{}" * 1000), gzip.compress(b"") * 9],
        (b"\x1f\x8b\x08", b"\x78\x9c", b"\0" * 9, b"\xff" * 9),
    ),
    "keys": Target(
        keys, (),
        lambda: [b"# c\nsk-0123456789abcdef use me limit=60\nabc admin\n",
                 "\ufeffkey use\n".encode("utf-16")],
        (b"limit=", b"limit=9999999", b"use", b"admin", b"\n", b"\xff\xfe", b"\xfe\xff",
         b"\xef\xbb\xbf", b"\0", b"\xb2"),
    ),
    "values": Target(
        values, (),
        lambda: [b"1h30m", b"12GiB", b"0-11,20", b"-1", b"auto", b"hf.co/a/b:Q4_K_M",
        b"m?moe_cpu_layers=3",
                 b"registry.ollama.ai/library/x:latest", b"1.5e3"],
        (b"-", b",", b"9" * 400, b".", b"e", b"inf", b"nan", b"/", b"..", b":", b"://", b"?",
        b"&", b"=",
         b"\xc2\xb2", b"\xd9\xa3", b" "),
    ),
    "template": Target(
        template, (),
        lambda: [b"{% for m in messages %}{{ m['role'] }}{% endfor %}"
                 b"{% generation %}x{% endgeneration %}",
                 b"{{- if .System }}{{ .System }}{{ end }}"],
        (b"{%", b"%}", b"{{", b"}}", b"{#", b"#}", b"(" * 300, b"[" * 300, b"if", b"macro",
        b"range",
         b"9" * 5000, b"-", b"'", b"not " * 300, b"{% if x %}" * 200, b"{% break %}", b"{% raw %}"),
    ),
    "body": Target(
        body, (BadRequest, *NOT_JSON),
        _json(CHAT, {"model": "m?n_cpu_moe=3", "prompt": "x"}), JSON_WORDS,
    ),
    "response": Target(
        response, (ProxyError, *NOT_JSON),
        _json({**RESPONSE, "previous_response_id": None, "reasoning": {"summary": "auto"},
               "include": ["message.output_text.logprobs"], "top_logprobs": 1,
               "tools": [{"type": "custom", "name": "c", "format": {"definition": "x"}},
                         {"type": "namespace", "name": "n", "tools": [{"type": "function",
                                                                       "name": "f"}]}],
               "tool_choice": {"type": "allowed_tools", "tools": [{"name": "c"}]}},
              {"model": "m", "input": [
                  {"role": "assistant", "content": [{"type": "output_text", "text": "x"}]},
                  {"type": "reasoning", "summary": [], "encrypted_content": "moe-proxy:x"},
                  {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                  {"type": "function_call_output", "call_id": "c", "output": [{}]}]}),
        (*JSON_WORDS, b'{"type":"item_reference","id":"x"}', b'"input":', b'"role":',
         b'"type":', b'"tools":', b'"content":'),
    ),
    "response_events": Target(
        response_events, (),
        lambda: [STREAM],
        (*JSON_WORDS, b"data: ", b"\n\n", b"\r\n", b"[DONE]", b":\n\n", b'"index":99999999999'),
    ),
    "messages": Target(
        messages, (BadRequest, *NOT_JSON),
        _json(MESSAGE, {"model": "m", "messages": [{"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "x"}]},
            {"type": "document", "source": {"type": "text", "data": "x"}}]}],
            "output_config": {"format": {"type": "json_schema", "schema": {"$ref": "#/$defs/A"}}},
            "tool_choice": {"type": "tool", "name": "f"}, "stop_sequences": ["x"]}),
        (*JSON_WORDS, b'"system":', b'"tools":', b'"thinking":', b'"source":', b'"$ref":', b'"#"'),
    ),
    "message_events": Target(
        message_events, (), lambda: [STREAM, CALL_STREAM],
        (*JSON_WORDS, b"data: ", b"\n\n", b"\r\n", b"[DONE]", b'"content":', b'"index":',
         b'"__verbose":', b'"error":', b'\\"name\\":', b'\\"arguments\\":'),
    ),
    "ollama_body": Target(
        ollama_body, (), _json(CHAT, {"model": "m", "prompt": "x", "images": ["eA=="],
        "context": [1]}),
        (*JSON_WORDS, b'"options":', b'"format":', b'"think":', b'"keep_alive":', b'"images":'),
    ),
    "events": Target(
        events, (),
        lambda: [STREAM, COMPLETION],
        (*JSON_WORDS, b"data: ", b"\n\n", b"\r\n", b"<think>", b"</think>", b"[DONE]",
         b'"prompt_ms":1e308', b'"index":99999999999999999999', b"<|message|>", b"[THINK]"),
    ),
}  # fmt: skip
