"""The command `serve`, until what it needs is loaded: soon, and with no more than it needs."""

import ssl
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

CERTIFICATES: Final = "set_default_verify_paths"


def serve(arguments: Namespace) -> int:
    with without_certificates():
        from proxy.app import Settings
        from proxy.cli.serve import main as serve_until_told

    serve_until_told(
        Settings(
            host=arguments.host,
            port=arguments.port,
            policies=arguments.policies,
            alone=True,
            log_format=arguments.log_format,
            log_level=arguments.log_level,
        )
    )


@contextmanager
def without_certificates() -> Iterator[None]:
    """Within the block, TLS contexts are made that trust nobody. aiohttp makes two as it is
    imported, and reads all of this machine's certificates for each: a tenth of a start, and 2 MiB,
    for what only a pull needs, which makes its own."""
    setattr(ssl.SSLContext, CERTIFICATES, lambda _: None)
    try:
        yield
    finally:
        delattr(ssl.SSLContext, CERTIFICATES)  # that of its base holds again
