"""TLS between the machines of a fleet, with Ray's own certificate, where the cluster speaks it."""

import ssl
from collections.abc import Mapping

from proxy.fleet.names import (
    AUTHORITY_VARIABLE,
    CERTIFICATE_KEY_VARIABLE,
    CERTIFICATE_VARIABLE,
    TLS_VARIABLE,
)


def context(env: Mapping[str, str], *, server: bool) -> ssl.SSLContext | None:
    """None where the cluster has none. Both sides show a certificate of its authority; names are
    not looked at, as Ray's certificates may have any. Raises OSError and KeyError."""
    if env.get(TLS_VARIABLE, "0").lower() not in ("1", "true"):
        return None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(env[AUTHORITY_VARIABLE])
    made.load_cert_chain(env[CERTIFICATE_VARIABLE], env[CERTIFICATE_KEY_VARIABLE])
    return made
