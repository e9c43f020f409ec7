"""What a supervisor finds on its machine, and makes there: environment, folders, a socket."""

import errno
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import structlog

from proxy.files import replace
from proxy.fleet.cluster.directory import Setup
from proxy.node.names import KEY_FILE_VARIABLE, NODE_VARIABLE
from proxy.policy.values import home_of
from proxy.service.listening import listen

log = structlog.get_logger()

FRONT_HOST, FRONT_PORT = "127.0.0.1", 11434
# Of `fleet up`, where it starts Ray.
POLICIES_VARIABLE: Final = "MOE_PROXY_POLICIES"
HOST_VARIABLE: Final = "MOE_PROXY_FLEET_HOST"
PORT_VARIABLE: Final = "MOE_PROXY_FLEET_PORT"
# As many nodes may be on one machine, each with a front of its own.
PORTS: Final = 50
FOLDER_MODE: Final = 0o700


def machine_env() -> dict[str, str]:
    """The environment that Ray was started with here. A worker's own says something else of cards
    and threads: Ray takes those away from whoever has not asked it for them."""
    try:
        parent = Path(f"/proc/{os.getppid()}")
        if b"raylet" in (parent / "cmdline").read_bytes().split(b"\0")[0]:
            pairs = (parent / "environ").read_bytes().split(b"\0")
            found = (os.fsdecode(pair).partition("=") for pair in pairs if b"=" in pair)
            return {name: value for name, _, value in found}
    except OSError:
        pass
    log.warning("fleet_environment_is_a_workers", hint="devices may be hidden from its node")
    return dict(os.environ)


def wanted_name(env: Mapping[str, str]) -> str:
    return env.get(NODE_VARIABLE) or socket.gethostname()


def own_folder(env: Mapping[str, str], name: str) -> Path:
    """For a supervisor's logs and key; nobody else may look into it. Raises OSError."""
    state = Path(env.get("XDG_STATE_HOME") or home_of(env) / ".local" / "state")
    folder = state / "moe-proxy" / "fleet" / name
    folder.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
    folder.chmod(FOLDER_MODE)
    return folder


def write_key(folder: Path, key: str) -> Path:
    """Raises OSError."""
    file = folder / "key"
    if not file.exists():
        os.close(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    file.chmod(0o600)
    replace(file, key.encode() + b"\n")
    return file


def child_env(env: Mapping[str, str], name: str, key_file: Path) -> dict[str, str]:
    """What a node and a front are started with."""
    return {**env, NODE_VARIABLE: name, KEY_FILE_VARIABLE: str(key_file)}


def front_socket(host: str, port: int) -> socket.socket:
    """Listens at the address, or where that is taken at the next free port. Raises OSError."""
    for number in range(port, min(port + PORTS, 65536)):
        try:
            first, *others = listen(host, number)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            continue
        for other in others:
            other.close()
        if number != port:
            log.warning("fleet_port_taken", wanted=port, port=number)
        return first
    raise OSError(errno.EADDRINUSE, f"none of the ports {port} to {port + PORTS - 1} is free")


def url_of_front(front: socket.socket, address: str) -> str:
    """For clients. `address`: of this machine, by which one that listens everywhere is reached."""
    host, port = front.getsockname()[:2]
    host = address if host in ("0.0.0.0", "::") else host
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def own_setup(told: Setup | None, env: Mapping[str, str], host: str, port: int) -> Setup:
    """What was said of this machine, else to Ray as it was started here, else of all. A name is
    given once, by the directory."""
    told = told or Setup()
    port_here = env.get(PORT_VARIABLE, "")
    return Setup(
        None,
        told.policies,
        told.host or env.get(HOST_VARIABLE) or host,
        told.port or (int(port_here) if port_here.isdecimal() else port),
    )
