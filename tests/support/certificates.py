"""Certificates as a cluster that speaks TLS has them, made by openssl."""

import shutil
import subprocess
from pathlib import Path

import pytest

from proxy.node.names import (
    AUTHORITY_VARIABLE,
    CERTIFICATE_KEY_VARIABLE,
    CERTIFICATE_VARIABLE,
    TLS_VARIABLE,
)

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl")
CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")


def certificates(folder: Path, name: str = "fleet", *addresses: str) -> dict[str, str]:
    """An authority of its own, and one certificate of it for 127.0.0.1 and these addresses, which
    all members show: as variables of the environment."""
    folder.mkdir(exist_ok=True)
    ca, ca_key, cert, key, request, more = (
        str(folder / f"{name}.{end}")
        for end in ("ca.pem", "ca.key", "pem", "key", "csr", "extensions")
    )
    names = ",".join(f"IP:{address}" for address in ("127.0.0.1", *addresses))
    Path(more).write_text(f"subjectAltName={names},DNS:localhost\n")
    _openssl("req", "-x509", *CURVE, "-keyout", ca_key, "-out", ca, "-subj", f"/CN={name} CA")
    _openssl("req", *CURVE[:-2], "-keyout", key, "-out", request, "-subj", f"/CN={name}")
    by = ("-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2", "-extfile", more)
    _openssl("x509", "-req", "-in", request, "-out", cert, *by)
    return {
        TLS_VARIABLE: "1",
        CERTIFICATE_VARIABLE: cert,
        CERTIFICATE_KEY_VARIABLE: key,
        AUTHORITY_VARIABLE: ca,
    }


def _openssl(*arguments: str) -> None:
    subprocess.run(("openssl", *arguments), check=True, capture_output=True)
