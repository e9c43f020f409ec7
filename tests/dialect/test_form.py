"""Forms, as sounds come with."""

import pytest

from proxy.dialect.form import check_form, form_fields
from proxy.errors import BadRequest
from tests.fuzz.bounds import little_time

KIND = "multipart/form-data; boundary=xx"


def form(*parts: bytes, mark: bytes = b"xx") -> bytes:
    return b"".join(b"--" + mark + b"\r\n" + part + b"\r\n" for part in parts) + (
        b"--" + mark + b"--\r\n"
    )


def field(name: str, value: bytes) -> bytes:
    return b'Content-Disposition: form-data; name="%s"\r\n\r\n%s' % (name.encode(), value)


SOUND = (
    b'Content-Disposition: form-data; name="file"; filename="model"\r\nContent-Type: audio/wav'
    b"\r\n\r\nRIFF\r\n--x\r\n\r\n\0\xff"
)


def test_fields_are_read_and_files_are_not() -> None:
    body = form(SOUND, field("model", b"tiny:4l"), field("prompt", "caf\u00e9\r\n".encode()))

    assert form_fields(KIND, body) == {"model": "tiny:4l", "prompt": "caf\u00e9\r\n"}


@pytest.mark.parametrize(
    "kind",
    [
        'Multipart/Form-Data; charset=utf-8; boundary="a b"',
        "multipart/form-data;boundary=a b",
    ],
)
def test_a_boundary_may_be_quoted(kind: str) -> None:
    assert form_fields(kind, form(field("model", b"m"), mark=b"a b")) == {"model": "m"}


@pytest.mark.parametrize(
    "kind", ["", "application/json", "multipart/form-data", "multipart/mixed; boundary=xx", "\xff;"]
)
def test_what_is_no_form_is_refused(kind: str) -> None:
    with pytest.raises(BadRequest, match="multipart/form-data"):
        form_fields(kind, form(field("model", b"m")))


def test_half_a_form_has_no_half_fields() -> None:
    whole = form(field("model", b"tiny"), field("prompt", b"Hi"))

    for end in range(len(whole)):
        found = form_fields(KIND, whole[:end])
        assert found.items() <= {"model": "tiny", "prompt": "Hi"}.items()


def test_what_workers_die_of_is_refused_in_a_form_too() -> None:
    check_form({"model": "m", "grammar": 'root ::= "a"'})
    with pytest.raises(BadRequest, match="grammar"):
        check_form({"grammar": "(" * 100_000})


def test_it_takes_little_time() -> None:
    with little_time():
        form_fields(KIND, b"--xx\r\n" * 1_000_000)
        form_fields(KIND, form(b"a: b\r\n" * 200_000 + field("x", b"y")))
