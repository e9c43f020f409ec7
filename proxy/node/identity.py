"""What this process is in a fleet: a node's name, the key that its members have in common, and the
certificates that they show each other. All of it is said by the environment, at the start.
"""

import hmac
import ssl
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from proxy.files import check_regular, read_small
from proxy.node.names import (
    AUTHORITY_VARIABLE,
    CERTIFICATE_KEY_VARIABLE,
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

MOST_KEY_BYTES: Final = 4096
LEAST_KEY_BYTES: Final = 16
YES: Final = frozenset({"1", "true"})  # as Ray reads it
OTHERS: Final = stat.S_IROTH | stat.S_IWOTH


class BadIdentity(Exception):
    """Why this process can be no part of a fleet, for people."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files in PEM: both sides show a certificate of one authority, as Ray's own processes do."""

    certificate: Path
    key: Path
    authority: Path

    def of_server(self) -> ssl.SSLContext:
        """Raises OSError (ssl.SSLError is one) for files that cannot be used."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.authority)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self.certificate, self.key)
        return context

    def of_client(self) -> ssl.SSLContext:
        """The same for who asks."""
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=self.authority)
        context.load_cert_chain(self.certificate, self.key)
        return context


@dataclass(frozen=True)
class Identity:
    """`key` is None where this machine is in no fleet: then everybody is let in to where API keys,
    Host and Origin are looked at."""

    name: str | None = None
    key: bytes | None = None
    key_file: Path | None = None
    certificates: Certificates | None = None
    front: str | None = None  # its machine's, as a URL

    def __repr__(self) -> str:
        return f"<Identity {self.name}>"  # not the key

    def knows(self, headers: Mapping[str, str]) -> bool:
        """Whether a request is of this fleet. How long that takes tells nothing of the key."""
        if self.key is None:
            return True
        given = headers.get(KEY_HEADER, "").encode("utf-8", "surrogateescape")
        return hmac.compare_digest(given, self.key)

    def is_own(self, headers: Mapping[str, str]) -> bool:
        """Whether the fleet itself asks, and not a client through it."""
        return self.key is not None and headers.get(OWN_HEADER) == "1" and self.knows(headers)

    def hosts(self, headers: Mapping[str, str]) -> str:
        """By what names, divided by commas, the client may call the machine that it has asked."""
        return headers.get(HOSTS_HEADER, "") if self.key is not None else ""

    def client(self, headers: Mapping[str, str]) -> str:
        """Who has asked the front that asks us, where one does: his address and connection."""
        return headers.get(CLIENT_HEADER, "") if self.key is not None else ""

    @property
    def variables(self) -> dict[str, str]:
        """What another process has to have in its environment to be the same."""
        if self.key_file is None:
            return {}
        found = {KEY_FILE_VARIABLE: str(self.key_file.absolute())}
        if self.front is not None:
            found[FRONT_VARIABLE] = self.front
        if self.certificates is not None:
            found[TLS_VARIABLE] = "1"
            found[CERTIFICATE_VARIABLE] = str(self.certificates.certificate.absolute())
            found[CERTIFICATE_KEY_VARIABLE] = str(self.certificates.key.absolute())
            found[AUTHORITY_VARIABLE] = str(self.certificates.authority.absolute())
        return found

    @cached_property
    def own_headers(self) -> dict[str, str]:
        """What the fleet says beside its own questions."""
        return {} if self.key is None else {KEY_HEADER: self.key.decode(), OWN_HEADER: "1"}

    @cached_property
    def server_tls(self) -> ssl.SSLContext | None:
        return self.certificates.of_server() if self.certificates else None

    @cached_property
    def client_tls(self) -> ssl.SSLContext | None:
        return self.certificates.of_client() if self.certificates else None

    @cached_property
    def of_itself_tls(self) -> ssl.SSLContext | None:
        """For who asks at a socket of its own, by whatever address: no name is compared."""
        if self.certificates is None:
            return None
        context = self.certificates.of_client()
        context.check_hostname = False
        return context


def identity_of(env: Mapping[str, str]) -> Identity:
    """Raises BadIdentity."""
    name = env.get(NODE_VARIABLE) or None
    if name is not None and not (name.isascii() and name.isprintable() and " " not in name):
        raise BadIdentity(f"{NODE_VARIABLE} is no name that a header could carry")
    if not (file := env.get(KEY_FILE_VARIABLE)):
        return Identity(name)
    key_file = Path(file)
    front = env.get(FRONT_VARIABLE) or None
    identity = Identity(name, _key(key_file), key_file, certificates_of(env), front)
    try:
        _ = identity.server_tls, identity.client_tls
    except (OSError, ValueError) as error:
        names = f"{CERTIFICATE_VARIABLE}, {CERTIFICATE_KEY_VARIABLE} and {AUTHORITY_VARIABLE}"
        raise BadIdentity(f"{names} do not name certificates that can be used: {error}") from error
    return identity


def _key(file: Path) -> bytes:
    try:
        if check_regular(file).st_mode & OTHERS:
            raise BadIdentity(
                f"everybody on this machine can read or change the fleet's key; chmod 600 {file}"
            )
        key = read_small(file, MOST_KEY_BYTES).strip()
    except OSError as error:
        why = error.strerror or str(error)
        raise BadIdentity(f"{KEY_FILE_VARIABLE}: cannot read {file}: {why}") from error
    if len(key) < LEAST_KEY_BYTES:
        raise BadIdentity(f"the fleet's key in {file} is shorter than {LEAST_KEY_BYTES} bytes")
    if not all(0x21 <= byte < 0x7F for byte in key):
        raise BadIdentity(f"the fleet's key in {file} is not one word of plain letters and digits")
    return key


def certificates_of(env: Mapping[str, str]) -> Certificates | None:
    """None where the cluster has none. Raises BadIdentity."""
    if env.get(TLS_VARIABLE, "").lower() not in YES:
        return None
    names = (CERTIFICATE_VARIABLE, CERTIFICATE_KEY_VARIABLE, AUTHORITY_VARIABLE)
    files = [env.get(name, "") for name in names]
    missing = [name for name, file in zip(names, files, strict=True) if not file]
    if missing:
        raise BadIdentity(f"{TLS_VARIABLE} is set, and {' and '.join(missing)} is not")
    return Certificates(*map(Path, files))
