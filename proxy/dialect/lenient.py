"""Bodies as clients in use send them, made what was meant, as Ollama (Go's JSON) takes them. Pure.

Half a character becomes U+FFFD, what stands behind the object is left out, names of fields may be
in capitals, and null is nothing. What needs none of this goes on byte for byte: whether it does is
found out by looking for bytes, not by taking it apart.
"""

import codecs
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from proxy.dialect.body import Body

# --- text -------------------------------------------------------------------------------------

_REPLACED: Final = "\ufffd"
# From the start to the first half of a surrogate pair, without a step back: each backslash is read
# as JSON reads it, so that one that is itself escaped begins nothing.
_HALF: Final = re.compile(
    rb"(?:[^\\]++|\\[^u]|\\u(?![dD][89a-fA-F])"
    rb"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})*+"
    rb"(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_HALF_WRITTEN: Final = b"\\ufffd"


def _each_byte(error: UnicodeError) -> tuple[str, int]:
    """U+FFFD for each byte that is no text, as in Go."""
    assert isinstance(error, UnicodeDecodeError)
    return _REPLACED * (error.end - error.start), error.end


codecs.register_error("proxy.each_byte", _each_byte)


def mend_text(data: bytes) -> bytes:
    """JSON whose strings are text: with U+FFFD in place of what is none, in bytes or escapes."""
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError:
            data = data.decode(errors="proxy.each_byte").encode()
    return _without_halves(data) if _SURROGATE.search(data) else data


def _without_halves(data: bytes) -> bytes:
    pieces: list[bytes] = []
    done = 0
    while match := _HALF.match(data, done):
        pieces += (data[done : match.start(1)], _HALF_WRITTEN)
        done = match.end()
    return b"".join((*pieces, data[done:])) if pieces else data


# --- fields -----------------------------------------------------------------------------------

# Names that Ollama knows, and llama-server: where they come in capitals, nothing else is meant.
FIELDS: Final = frozenset(
    """model messages prompt input suffix system template context images raw format think options
    keep_alive stream stream_options truncate shift dimensions name source destination from files
    adapters license parameters quantize insecure verbose tools tool_choice functions max_tokens
    max_completion_tokens max_output_tokens n_predict n seed stop stop_sequences temperature top_p
    top_k min_p frequency_penalty presence_penalty repeat_penalty response_format logprobs
    top_logprobs logit_bias echo user encoding_format instructions reasoning reasoning_effort text
    query documents top_n content tokens moe_cpu_layers num_cpu_moe n_cpu_moe num_moe_offload
    role thinking tool_calls tool_call_id tool_name function arguments description type id
    reasoning_content image_url url input_audio data detail media_type include_usage tool_use_id
    is_error effort json_schema""".split()
)
# Where conversations and tools stand.
_PARTS: Final = frozenset(
    """messages input tools functions tool_choice system response_format text stream_options
    reasoning thinking output_config""".split()
)
# Values of users, in which names and nulls are theirs.
_THEIRS: Final = frozenset("arguments input metadata".split())
# Schemas: their words are JSON Schema's, and null is none of its values but for those given below.
_SCHEMAS: Final = frozenset("parameters input_schema output_schema schema format".split())
_VALUES: Final = frozenset("const default enum example examples".split())
# What is behind these goes by names of users.
_NAMED: Final = frozenset("properties patternProperties $defs definitions dependentSchemas".split())
# Of which llama-server wants to see that there is none.
_KEPT: Final = frozenset({"content", "arguments"})
_LEVELS: Final = 8
_NULL: Final = b"null"
# Patterns that begin with a character of their own are found many times as fast as others.
_SOME_NULL: Final = re.compile(rb":[ \t\r\n]*null")
# How names within a conversation are written by those who write them with capitals.
_CAPITALS: Final = re.compile(rb'"(?:Role|ROLE|Content|CONTENT)"')
# What msgspec says where something stands behind the object, counted from 1. To find its end by
# other means would take much time and memory for bodies that are made for that.
_MORE: Final = re.compile(r"trailing characters \(byte (\d+)\)")
_Fields = dict[str, msgspec.Raw]
_object = msgspec.json.Decoder(_Fields)
_array = msgspec.json.Decoder(list[msgspec.Raw])


def read_object(data: bytes) -> Body:
    """A body as it is meant; `encode()` has the same bytes where nothing had to be done.

    Raises msgspec.DecodeError, and RecursionError for what is nested too deep.
    """
    data = mend_text(data)
    body = Body(data)
    try:
        fields = body.fields
    except msgspec.DecodeError as error:
        if not (more := _MORE.search(str(error))):
            raise
        body = Body(data[: int(more[1]) - 1].rstrip())
        fields = body.fields
    others = [name for name in fields if name not in FIELDS]
    has_capitals = any(_known(name) != name for name in others) or bool(_CAPITALS.search(data))
    if has_capitals or _SOME_NULL.search(data):
        meant = _meant(fields, has_capitals)
        if not _is_same(fields, meant):
            body.replace(meant)
    return body


def as_meant(data: bytes) -> Body:
    """The same, for who does not need to know whether it is an object: the next one to look says
    it."""
    try:
        return read_object(data)
    except (msgspec.DecodeError, RecursionError):
        return Body(data)


def _meant(fields: Mapping[str, msgspec.Raw], has_capitals: bool) -> _Fields:
    found: _Fields = {}
    for name, value in fields.items():
        if bytes(value) == _NULL:
            continue
        known = _known(name) if has_capitals else name
        if known in _PARTS:
            found[known] = _part(value, _LEVELS, has_capitals)
        else:
            found[known] = _schema(value) if known == "format" else value
    return found


def _part(value: msgspec.Raw, levels: int, has_capitals: bool) -> msgspec.Raw:
    """A part of a conversation, the same object where there is nothing to do."""
    text = bytes(value)
    if levels == 0 or not (has_capitals or _SOME_NULL.search(text)):
        return value
    if text[:1] == b"[":
        items = _array.decode(text)
        changed = [_part(item, levels - 1, has_capitals) for item in items]
        same = all(one is other for one, other in zip(items, changed, strict=True))
        return value if same else msgspec.Raw(msgspec.json.encode(changed))
    if text[:1] != b"{":
        return value
    fields = _object.decode(text)
    found: _Fields = {}
    for name, inner in fields.items():
        known = _known(name) if has_capitals else name
        if bytes(inner) == _NULL and known not in _KEPT:
            continue
        if known in _SCHEMAS and bytes(inner)[:1] == b"{":
            found[known] = _schema(inner)
        else:
            found[known] = inner if known in _THEIRS else _part(inner, levels - 1, has_capitals)
    return value if _is_same(fields, found) else msgspec.Raw(msgspec.json.encode(found))


def _schema(value: msgspec.Raw) -> msgspec.Raw:
    """One without words that say nothing: who writes Go has `"required": null` for an empty
    list."""
    if not _SOME_NULL.search(bytes(value)):
        return value
    return msgspec.Raw(msgspec.json.encode(_said(msgspec.json.decode(value))))


def _said(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_said(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {}
    for word, value in schema.items():
        if word in _VALUES:
            found[word] = value
        elif word in _NAMED and isinstance(value, dict):
            found[word] = {name: _said(each) for name, each in value.items()}
        elif value is not None:
            found[word] = _said(value)
    return found


def _is_same(fields: Mapping[str, msgspec.Raw], found: Mapping[str, msgspec.Raw]) -> bool:
    same = (found.get(name) is value for name, value in fields.items())
    return len(found) == len(fields) and all(same)


def _known(name: str) -> str:
    return small if name not in FIELDS and (small := name.lower()) in FIELDS else name
