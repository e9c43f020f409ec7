"""Pictures and sounds in bodies."""

import json
from typing import Any

import pytest

from proxy.dialect.body import Body
from proxy.dialect.media import has_media

IMAGE = {"type": "image", "source": {}}
TEXT = {"type": "text", "text": '"image_url"'}


@pytest.mark.parametrize(
    ("body", "has"),
    [
        ({"messages": [{"content": [TEXT, {"type": "image_url"}]}]}, True),
        ({"messages": [{"content": [{"type": "input_audio"}]}]}, True),
        ({"messages": [{"content": [IMAGE]}]}, True),
        ({"messages": [{"content": [{"type": "tool_result", "content": [IMAGE]}]}]}, True),
        ({"input": [{"content": [{"type": "input_image"}]}]}, True),
        ({"messages": [{"content": [TEXT]}]}, False),
        ({"messages": [{"content": "image"}], "x": {"type": "image"}}, False),
        ({"messages": 5, "tools": ["image"]}, False),
        ({"messages": [5, {"content": 5}], "input": "image"}, False),
    ],
)
def test_where_they_are(body: Any, has: bool) -> None:
    assert has_media(Body(json.dumps(body).encode())) == has


def test_parts_of_parts_of_parts_are_not_looked_into() -> None:
    """No protocol has any, and whoever sends them has no end of them."""
    parts = b"[" + b'{"content":[' * 450 + b'{"type":"image"}' + b"]}" * 450 + b"]"

    assert not has_media(Body(b'{"messages":' + parts + b"}"))
