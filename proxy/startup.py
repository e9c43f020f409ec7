"""What has to be right before anything runs: policies, an address, folders. Else why not."""

import errno
import http.client
import ipaddress
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import structlog

from proxy.engine.runtime_dir import runtime_dir
from proxy.errors import Hangs, reason_of
from proxy.node.identity import BadIdentity, Identity, identity_of
from proxy.observe.record import PID_HEADER, Record, Taken, claim
from proxy.policy.load import Loaded, load
from proxy.policy.warnings import warnings_of
from proxy.service.listening import EVERYWHERE, hosts_of, listen
from proxy.service.passed_sockets import NotListening, passed_sockets
from proxy.threads import POLICIES, STORE

log = structlog.get_logger()

OLLAMA_PORT = 11434
# Who has our port says who it is by then, or is taken for a stranger.
ASK_S = 2.0


class StartupError(Exception):
    """Why the proxy does not start, for people; one line or several."""


def good_policies(path: Path | None, env: Mapping[str, str]) -> Loaded:
    """Policies that can be served with; what may yet be a mistake in them is logged. Raises
    StartupError."""
    loaded = load(path, env)
    if loaded.policies is None:
        problems = "\n".join(f"  {problem}" for problem in loaded.problems)
        raise StartupError(f"the policies have problems:\n{problems}")
    for warning in warnings_of(loaded, env):
        log.warning("policy_warning", warning=str(warning))
    return loaded


async def first_policies(path: Path | None, env: Mapping[str, str]) -> Loaded:
    """The same, though their disk may hang. Raises StartupError."""
    try:
        return await POLICIES.run(good_policies, path, env)
    except Hangs as error:
        raise StartupError(f"the policies cannot be read: {error.message}") from error


def identity(env: Mapping[str, str]) -> Identity:
    """What this process is in a fleet, if it is in one. Raises StartupError."""
    try:
        return identity_of(env)
    except BadIdentity as error:
        raise StartupError(str(error)) from error


async def claim_state(state: Path) -> Record:
    """Have a state folder for this proxy alone. Raises StartupError."""
    try:
        return await STORE.run(claim, state)
    except (Taken, Hangs) as error:
        raise StartupError(str(error)) from error


@contextmanager
def sockets_folder(env: Mapping[str, str]) -> Iterator[Path]:
    """For the workers' sockets. Raises StartupError."""
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(runtime_dir(env))
        except OSError as error:
            why = f"cannot make a folder for the workers' sockets: {reason_of(error)}"
            raise StartupError(f"{why}: {error.filename}") from error
        yield folder


def sockets_from_systemd(env: Mapping[str, str], *, keys: bool) -> list[socket.socket]:
    """Sockets that are listened on already; [] where none were passed. Where they listen is for
    whoever passed them to say. Raises StartupError."""
    try:
        sockets = passed_sockets(env)
    except NotListening as error:
        why = f"cannot listen on what was passed by systemd: {error}"
        raise StartupError(f"{why}; a socket unit needs ListenStream= and Accept=no") from error
    if sockets:
        log.info("sockets_from_systemd", urls=[url_of_socket(sock) for sock in sockets])
    _warn_if_open(sockets, keys=keys)
    return sockets


def listening_sockets(host: str, port: int, *, keys: bool) -> list[socket.socket]:
    """Sockets for an address, where clients need `keys` or not. Raises StartupError."""
    try:
        sockets = listen(host, port)
    except OSError as error:
        why = f"cannot listen on {host}:{port}: {reason_of(error)}"
        raise StartupError(why + _hint(error, host, port)) from error
    _warn_if_open(sockets, keys=keys)
    return sockets


def url_of_listening(host: str, sockets: Sequence[socket.socket]) -> str:
    """The URL of those that `listening_sockets` has made for `host`."""
    first = hosts_of(host)[0]
    if first in EVERYWHERE:  # which family there is, is known only now
        return url_of_socket(sockets[0])
    return url_of(first, sockets[0].getsockname()[1])


def urls_of(
    host: str, sockets: Sequence[socket.socket], *, passed: bool, secure: bool
) -> list[str]:
    """The URLs at which clients find what is served on these sockets, which were `passed` by
    systemd or made for `host`."""
    urls = [*map(url_of_socket, sockets)] if passed else [url_of_listening(host, sockets)]
    return [url.replace("http:", "https:", 1) for url in urls] if secure else urls


def url_of(host: str, port: int) -> str:
    """The URL for a `server.host`, the first where it has several; one that means every interface
    is reached on loopback."""
    host = _reached(hosts_of(host)[0])
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def url_of_socket(sock: socket.socket) -> str:
    """The URL of a listening socket."""
    address = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        path = address.decode() if isinstance(address, bytes) else address
        return f"unix:{path.replace(chr(0), '@', 1)}"  # @ as systemd writes an abstract one
    return url_of(address[0], address[1])


def _hint(error: OSError, host: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            for each in hosts_of(host):
                if (pid := _pid_of_ours(each, port)) is not None:
                    url = url_of(each, port)
                    return (
                        f": moe-proxy already runs there (process {pid}, at {url}); use that one "
                        f"(moe-proxy ps --url {url}), stop it, or choose another port with --port"
                    )
            ollama = "Ollama uses this port, and may be running"
            holder = ollama if port == OLLAMA_PORT else "another program uses it"
            return f": {holder}; stop it, or choose another port with --port"
        case errno.EADDRNOTAVAIL:
            return ": this machine does not have it; use --host 127.0.0.1, or 0.0.0.0 for all"
        case errno.EACCES:
            return ": ports below 1024 are the system's; choose another one with --port"
    return ""


def _reached(host: str) -> str:
    """Where a host is reached that may mean every interface."""
    return {"": "127.0.0.1", "*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _pid_of_ours(host: str, port: int) -> int | None:
    """The process of the moe-proxy that answers there; None where nobody does, or another one."""
    connection = http.client.HTTPConnection(_reached(host), port, timeout=ASK_S)
    try:
        connection.request("GET", "/health", headers={"Host": "localhost"})
        said = connection.getresponse().headers.get(PID_HEADER, "")
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return int(said) if said.isdecimal() and len(said) < 10 else None


def _warn_if_open(sockets: Sequence[socket.socket], *, keys: bool) -> None:
    open_ones = [] if keys else [sock for sock in sockets if not _is_local(sock)]
    if open_ones:
        log.warning(
            "open_to_the_network",
            host=open_ones[0].getsockname()[0],
            hint="who reaches it may do everything; server.api_keys_file makes it ask for a key",
        )


def _is_local(sock: socket.socket) -> bool:
    if sock.family == socket.AF_UNIX:  # its file's permissions say who may
        return True
    return ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback
