"""The fields of a form (multipart/form-data), as sounds are sent with. Pure."""

from email.message import Message
from typing import Final

import msgspec

from proxy.dialect.body import Body
from proxy.dialect.lenient import mend_text
from proxy.dialect.limits import check_limits
from proxy.errors import BadRequest

KIND: Final = "multipart/form-data"
# What is longer is a file; and a form of more parts is none that anybody fills in.
LONGEST_FIELD: Final = 1 << 20
MOST_PARTS: Final = 1000


def form_fields(content_type: str, body: bytes) -> dict[str, str]:
    """Name -> text of the fields that are no files. Raises BadRequest."""
    # What is no text, as bytes in a header may be, is none that could be looked for.
    head = _head("Content-Type: " + content_type.encode("utf-8", "replace").decode())
    boundary = head.get_param("boundary")
    if head.get_content_type() != KIND or not isinstance(boundary, str) or not boundary:
        raise BadRequest(f"send this as {KIND}, with a file and the name of a model")
    mark = b"\r\n--" + boundary.encode()
    # The first mark has no line before it, and what follows the last one is nothing.
    parts = (b"\r\n" + body).split(mark, MOST_PARTS)[1:-1]
    found: dict[str, str] = {}
    for part in parts:
        said, _, value = part.partition(b"\r\n\r\n")
        if len(value) > LONGEST_FIELD or len(said) > LONGEST_FIELD:
            continue
        about = _head(_text(said.lstrip(b"\r\n")))
        name = about.get_param("name", header="Content-Disposition")
        if isinstance(name, str) and about.get_filename() is None:
            found[name] = _text(value)
    return found


def check_form(fields: dict[str, str]) -> None:
    """Raise BadRequest for what llama-server would die of: it takes all fields for those of a
    conversation."""
    check_limits(Body(mend_text(msgspec.json.encode(fields))))


def _head(text: str) -> Message:
    message = Message()
    for line in text.split("\r\n"):
        name, colon, value = line.partition(":")
        if colon and "\n" not in value:
            message[name.strip()] = value.strip()
    return message


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
