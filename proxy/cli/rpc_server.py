"""The command `rpc-server`: llama.cpp's own, of the build that our workers use, in this process's
place, so that whatever ends this ends it."""

import ipaddress
import os
import signal
import socket
import sys
from argparse import Namespace
from typing import Final

from proxy.cli import output
from proxy.cli.output import FAILED, MISUSED
from proxy.engine.installed import program
from proxy.errors import reason_of

NAME: Final = "ggml-rpc-server"


def rpc_server(arguments: Namespace) -> int:
    """Does not return where it can be started."""
    host, port = arguments.host, arguments.port
    try:
        server = program(NAME)
        _check_free(host, port)
    except LookupError as error:
        output.error(error)
        return FAILED
    except OSError as error:
        output.error(f"cannot listen on {host}:{port}: {reason_of(error)}; choose another --port")
        return MISUSED
    if not is_loopback(host):
        output.info(
            f"WARNING: an RPC server asks nobody who they are: whoever reaches {host}:{port} can "
            "use this machine's memory, and may take it over. Only on a network of your own."
        )
    output.info(policy_lines(host, port))
    sys.stdout.flush()
    # One that is started in the background by a shell without job control would be deaf to it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threads = ("-t", str(arguments.threads)) if arguments.threads else ()
    os.execv(server, [server, "-H", host, "-p", str(port), *threads])


def policy_lines(host: str, port: int) -> str:
    """What to write into a policy file to have models use it."""
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return (
        "To use it as a device, write into a policy file:\n\n"
        f'  [devices]\n  rpc = ["{at}"]\n\n'
        "It has one client at a time: a second model that uses it unloads the first. "
        "Ctrl-C ends it."
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address. A name is taken for what it stands for."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    addresses = [ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found]
    return all(address.is_loopback for address in addresses)


def _check_free(host: str, port: int) -> None:
    """Raises OSError: the server itself ends without a word of why."""
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
