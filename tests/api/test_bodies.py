"""Bodies of our own routes."""

import pytest

from proxy.api.bodies import decode_json
from proxy.errors import BadRequest


@pytest.mark.parametrize(
    ("body", "says"),
    [(b"{", "not what is expected"), (b"[" * 5000 + b"]" * 5000, "nested too deep")],
)
def test_what_is_refused(body: bytes, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        decode_json(body, list)
