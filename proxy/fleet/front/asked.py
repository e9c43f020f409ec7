"""What a request asks for, as far as it decides which node gets it. Pure: the bytes of a request
in, plain values out. Whatever stands there, nothing is refused: that is for the node to do.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, Literal
from urllib.parse import parse_qsl

import msgspec

from proxy.api.unpack import unpacker_of
from proxy.catalog.names import fold
from proxy.dialect.form import KIND as FORM
from proxy.dialect.form import form_fields
from proxy.errors import BadRequest

# What a packed body may unpack to for a look at it.
MOST_UNPACKED_BYTES: Final = 8 << 20
# Of what a conversation begins with: the beginning and the end tell it from others.
HASHED_BYTES: Final = 1 << 16
# Of a body that is not quite JSON, or not all there.
LOOKED_AT_BYTES: Final = 1 << 20
# A prompt that is one text grows with each turn; so much of it is there from the first one on.
FIRST_OF_PROMPT: Final = 256
MOST_PARTS: Final = 16
OPTIONS: Final = "?"  # between a model's name and how it is to be loaded
SYSTEM: Final = frozenset({"system", "developer"})
MODEL_ROUTES: Final = ("/v1/models/", "/models/", "/logs/stream/", "/logs/")
ADMIN_MODELS: Final = "/admin/models/"
UPSTREAM: Final = "/upstream/"
# Where a request would be done twice if two nodes got it.
CHANGES: Final = (
    *("/admin/", "/api/pull", "/api/push", "/api/create", "/api/copy", "/api/delete"),
    *("/api/blobs", "/slots", "/lora-adapters", "/v1/responses/", "/responses/"),
)
LOOKS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# What belongs together though no request says so: files of which a model is made, and policies.
BLOBS: Final = "/api/blobs/"
CREATE: Final = "/api/create"
POLICIES: Final = "/admin/policies"
_ITEM: Final = re.compile(
    r"/admin/(?P<kind>backends|requests)/(?P<id>[^/]+)/|(?:/v1)?/(?P<responses>responses)/(?P<r>[^/]+)"
)
_NAMED: Final = re.compile(rb'"model"\s*:\s*("(?:[^"\\]|\\.){1,512}")')

Kind = Literal["backends", "requests", "responses"]
Home = Literal["", "files", "policies"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """`models` are the names that it may mean, the likeliest first, without options. `key` is the
    same for all turns of a conversation, empty where there is none. `item` is of one node, whatever
    its model. What has a `home` goes to where others of its kind went."""

    models: tuple[str, ...] = ()
    key: bytes = b""
    ctx: int = 0
    item: tuple[Kind, str] | None = None
    home: Home = ""
    may_repeat: bool = True  # asked of two nodes, it does no harm


class _Body(msgspec.Struct):
    model: msgspec.Raw = msgspec.Raw(b"")
    name: msgspec.Raw = msgspec.Raw(b"")
    messages: msgspec.Raw = msgspec.Raw(b"")
    input: msgspec.Raw = msgspec.Raw(b"")
    prompt: msgspec.Raw = msgspec.Raw(b"")
    system: msgspec.Raw = msgspec.Raw(b"")
    instructions: msgspec.Raw = msgspec.Raw(b"")
    options: msgspec.Raw = msgspec.Raw(b"")
    num_ctx: msgspec.Raw = msgspec.Raw(b"")
    previous_response_id: msgspec.Raw = msgspec.Raw(b"")
    # Of Ollama's routes that change models: what a new one is made of.
    origin: msgspec.Raw = msgspec.field(default=msgspec.Raw(b""), name="from")
    source: msgspec.Raw = msgspec.Raw(b"")
    files: msgspec.Raw = msgspec.Raw(b"")
    adapters: msgspec.Raw = msgspec.Raw(b"")


class _Message(msgspec.Struct):
    role: Any = None
    content: msgspec.Raw = msgspec.Raw(b"")


_body = msgspec.json.Decoder(_Body)
_messages = msgspec.json.Decoder(list[_Message])


def wanted_of(
    method: str, path: str, query: str, headers: Mapping[str, str], body: bytes
) -> Wanted:
    """`path` as it is meant, without escapes; `headers` find names in any case; `body` as it came,
    as much of it as is known."""
    item = _item(path)
    home: Home = "policies" if path.startswith(POLICIES) else ""
    if path.startswith(BLOBS):
        home = "files"
    found = _in_body(path, headers, body) if body and not home else Wanted()
    models = _in_path(path) or found.models
    if not models:
        models = tuple(value for name, value in _query(query) if name == "model" and value)[:1]
    return Wanted(
        tuple(name for each in models if (name := each.partition(OPTIONS)[0])),
        found.key,
        found.ctx,
        item or found.item,
        home or found.home,
        may_repeat=method in LOOKS or (method == "POST" and not path.startswith(CHANGES)),
    )


def _in_path(path: str) -> tuple[str, ...]:
    if path.startswith(ADMIN_MODELS):
        name, _, verb = path.removeprefix(ADMIN_MODELS).rpartition("/")
        return (name,) if name and verb else ()
    if path.startswith(UPSTREAM):
        # Names have slashes, and so has what follows them.
        parts = path.removeprefix(UPSTREAM).split("/")[:MOST_PARTS]
        names = ("/".join(parts[:count]) for count in range(1, len(parts) + 1))
        return tuple(name for name in names if name)
    for prefix in MODEL_ROUTES:
        if path.startswith(prefix) and (name := path.removeprefix(prefix)):
            return () if name == "stream" else (name,)
    return ()


def _item(path: str) -> tuple[Kind, str] | None:
    match = _ITEM.match(path)
    if match is None:
        return None
    if match["responses"]:
        # `/v1/responses/input_tokens` and the like are no responses.
        return ("responses", match["r"]) if match["r"].startswith("resp_") else None
    return ("backends" if match["kind"] == "backends" else "requests"), match["id"]


def _query(query: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query, max_num_fields=100, errors="replace")
    except ValueError:
        return []


def _in_body(path: str, headers: Mapping[str, str], body: bytes) -> Wanted:
    plain = _unpacked(body, headers.get("Content-Encoding", ""))
    kind = headers.get("Content-Type", "")
    if kind.strip().lower().startswith(FORM):
        try:
            model = form_fields(kind, plain).get("model", "")
        except BadRequest:
            model = ""
        return Wanted((model,) if model else ())
    try:
        told = _body.decode(plain)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Wanted(tuple(_by_looks(plain)))
    if path.startswith(CREATE) and (told.files or told.adapters):
        return Wanted(home="files")
    made_of = _text(told.origin) or _text(told.source) if path.startswith("/api/") else ""
    model = made_of or _text(told.model) or _text(told.name)
    ctx = _whole(told.num_ctx) or _num_ctx(told.options)
    key = _key(model, told)
    previous = _text(told.previous_response_id)
    item: tuple[Kind, str] | None = ("responses", previous) if previous else None
    return Wanted((model,) if model else (), key, ctx, item)


def _by_looks(body: bytes) -> Iterator[str]:
    """The model in a body that is not quite JSON, or of which only the beginning is known."""
    for part in (body[:LOOKED_AT_BYTES], body[-HASHED_BYTES:]):
        if (match := _NAMED.search(part)) and (name := _text(match[1])):
            yield name
            return


def _key(model: str, told: _Body) -> bytes:
    """Of the model, the first thing that is said to it and the first that somebody asks."""
    first = [bytes(said) for said in (told.system, told.instructions) if said]
    for conversation in (told.messages, told.input):
        if conversation:
            first += _opening(conversation)
    if not first and (prompt := told.prompt or told.input):
        first = [bytes(memoryview(prompt)[:FIRST_OF_PROMPT])]
    elif told.prompt:
        first.append(bytes(memoryview(told.prompt)[:FIRST_OF_PROMPT]))
    if not first:
        return b""
    name = fold(model.partition(OPTIONS)[0])
    digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16)
    for each in first:
        digest.update(len(each).to_bytes(8, "big"))
        digest.update(each[:HASHED_BYTES])
        digest.update(each[-HASHED_BYTES:])
    return digest.digest()


def _opening(conversation: msgspec.Raw) -> list[bytes]:
    """The first message of the system and the first one of a user."""
    try:
        messages = _messages.decode(conversation)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return [bytes(memoryview(conversation)[:FIRST_OF_PROMPT])]
    found: list[bytes] = []
    for message in messages:
        if message.role == "user":
            return [*found, bytes(message.content)]
        if message.role in SYSTEM and not found:
            found.append(bytes(message.content))
    return found


def _num_ctx(options: msgspec.Raw) -> int:
    try:
        table = msgspec.json.decode(options) if options else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return 0
    value = table.get("num_ctx") if isinstance(table, dict) else 0
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _text(raw: msgspec.Raw | bytes) -> str:
    try:
        value = msgspec.json.decode(raw) if raw else ""
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    return value if isinstance(value, str) else ""


def _whole(raw: msgspec.Raw) -> int:
    try:
        value = msgspec.json.decode(raw, type=int) if raw else 0
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return 0
    return max(value, 0)


def _unpacked(body: bytes, encoding: str) -> bytes:
    """As much of it as can be had."""
    pieces: list[bytes] = []
    size = 0
    try:
        unpacker = unpacker_of(encoding)
        if unpacker is None:
            return body
        for piece in unpacker.pieces(body):
            pieces.append(piece)
            size += len(piece)
            if size > MOST_UNPACKED_BYTES:
                break
    except BadRequest:
        pass
    return b"".join(pieces)
