"""The id of a response in the first bytes of its answer. Pure."""

import re
from typing import Final

_ID: Final = re.compile(rb'"id"\s*:\s*"(resp_[A-Za-z0-9_-]{1,128})"')
LOOKED_AT: Final = 1 << 14


def response_id(chunk: bytes) -> str | None:
    """None: there is none in these bytes."""
    match = _ID.search(chunk[:LOOKED_AT])
    return match[1].decode() if match else None
