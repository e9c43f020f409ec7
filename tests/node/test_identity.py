"""What a process is in a fleet, as its environment says; and what is no key and no certificate."""

import os
import ssl
from pathlib import Path

import pytest
from multidict import CIMultiDict

from proxy.node.identity import BadIdentity, Identity, identity_of
from proxy.node.names import (
    CERTIFICATE_VARIABLE,
    CLIENT_HEADER,
    FRONT_VARIABLE,
    HOSTS_HEADER,
    KEY_FILE_VARIABLE,
    KEY_HEADER,
    NODE_VARIABLE,
    OWN_HEADER,
    TLS_VARIABLE,
)
from tests.support.certificates import certificates, needs_openssl

KEY = "k" * 32


def written(folder: Path, text: str, mode: int = 0o600) -> dict[str, str]:
    file = folder / "key"
    file.write_text(text)
    file.chmod(mode)
    return {KEY_FILE_VARIABLE: str(file), NODE_VARIABLE: "n1"}


def test_a_machine_of_no_fleet_lets_everybody_in() -> None:
    alone = identity_of({})

    assert alone == Identity()
    assert alone.knows({})
    assert not alone.is_own({OWN_HEADER: "1"})
    assert alone.hosts({HOSTS_HEADER: "evil"}) == alone.client({CLIENT_HEADER: "me"}) == ""
    assert identity_of({NODE_VARIABLE: "n1"}).name == "n1"


def test_who_brings_the_key_is_known(tmp_path: Path) -> None:
    node = identity_of(written(tmp_path, f"{KEY}\n"))

    assert node.name == "n1"
    assert node.knows(CIMultiDict({KEY_HEADER.lower(): KEY}))
    assert node.is_own(node.own_headers)
    for wrong in ("", KEY[:-1], KEY + "k", KEY.upper(), "\udcff"):
        assert not node.knows({KEY_HEADER: wrong})
        assert not node.is_own({KEY_HEADER: wrong, OWN_HEADER: "1"})
    assert not node.is_own({KEY_HEADER: KEY})
    assert not node.is_own({KEY_HEADER: KEY, OWN_HEADER: "yes"})
    assert KEY not in repr(node)


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        (KEY, 0o644, "chmod 600"),
        (KEY, 0o602, "chmod 600"),
        ("!abc!", 0o600, "shorter"),
        ("", 0o600, "shorter"),
        ("two words of a long key", 0o600, "one word"),
        ("ключ" * 10, 0o600, "one word"),
        ("k" * 5000, 0o600, "larger"),
    ],
)
def test_what_is_no_secret_is_refused(tmp_path: Path, text: str, mode: int, why: str) -> None:
    with pytest.raises(BadIdentity, match=why) as refused:
        identity_of(written(tmp_path, text, mode))
    if text:
        assert text not in str(refused.value)


def test_so_is_a_file_that_is_not_there_or_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("nothing", "pipe", "."):
        with pytest.raises(BadIdentity, match=KEY_FILE_VARIABLE):
            identity_of({KEY_FILE_VARIABLE: str(tmp_path / name)})


def test_commands_are_told_where_the_machines_front_is(tmp_path: Path) -> None:
    env = written(tmp_path, KEY) | {FRONT_VARIABLE: "http://127.0.0.1:11434"}

    assert identity_of(env).variables[FRONT_VARIABLE] == env[FRONT_VARIABLE]
    assert FRONT_VARIABLE not in identity_of(env | {FRONT_VARIABLE: ""}).variables
    # A proxy that is no node has none.
    assert identity_of({FRONT_VARIABLE: "http://127.0.0.1:11434"}).variables == {}


def test_a_name_has_to_fit_into_a_header() -> None:
    for name in ("two words", "a\nb", "ü"):
        with pytest.raises(BadIdentity, match=NODE_VARIABLE):
            identity_of({NODE_VARIABLE: name})


def test_certificates_that_are_not_there_are_told_of(tmp_path: Path) -> None:
    env = written(tmp_path, KEY) | {TLS_VARIABLE: "1"}
    with pytest.raises(BadIdentity, match=CERTIFICATE_VARIABLE):
        identity_of(env)
    nothing = dict.fromkeys(
        (CERTIFICATE_VARIABLE, "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT"), str(tmp_path / "none")
    )
    with pytest.raises(BadIdentity, match="can be used"):
        identity_of(env | nothing)
    # Without a key it is no node, and others' TLS is none of its business.
    assert identity_of({TLS_VARIABLE: "1"}).server_tls is None


@needs_openssl
def test_both_sides_show_a_certificate_of_the_same_authority(tmp_path: Path) -> None:
    ours = identity_of(written(tmp_path, KEY) | certificates(tmp_path / "ours"))
    theirs = identity_of(written(tmp_path, KEY) | certificates(tmp_path / "theirs"))
    assert identity_of(ours.variables) == Identity(None, ours.key, ours.key_file, ours.certificates)

    def says(client: ssl.SSLContext | None) -> bytes:
        """What the server, on one end of a pair of sockets, hears from a client."""
        assert ours.server_tls is not None
        assert client is not None
        mine, other = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = ours.server_tls.wrap_bio(mine, other, server_side=True)
        asking = client.wrap_bio(other, mine, server_hostname="127.0.0.1")
        for _ in range(6):
            for side in (asking, server):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    pass
        asking.write(b"hello")
        return server.read()

    assert says(ours.client_tls) == b"hello"
    assert says(ours.of_itself_tls) == b"hello"
    with pytest.raises(ssl.SSLError):
        says(theirs.client_tls)
    with pytest.raises(ssl.SSLError):  # none at all
        says(ssl.create_default_context(cafile=certificates(tmp_path / "x")["RAY_TLS_CA_CERT"]))
    anonymous = ssl.create_default_context(cafile=str(tmp_path / "ours" / "fleet.ca.pem"))
    with pytest.raises(ssl.SSLError):
        says(anonymous)
