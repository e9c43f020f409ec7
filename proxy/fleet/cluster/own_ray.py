"""Ray itself, on this machine: found, started and ended. Blocking."""

import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Final

from proxy.files import BadJson, decode_json, read_small, replace
from proxy.fleet.cluster import found_ray
from proxy.fleet.cluster.keeper import says_up
from proxy.fleet.names import NAMESPACE, RESOURCE
from proxy.policy.values import home_of

PORT: Final = 6379
START_S: Final = 60.0
END_S: Final = 90.0
# Ray keeps a share of the memory for objects that are passed around. Ours are small.
OBJECT_BYTES: Final = 100 << 20
RECORD_BYTES: Final = 4096
NO_TOKEN: Final = (
    "\nThe fleet's token is not known here, or another one: put RAY_AUTH_TOKEN=TOKEN before the "
    "command, as `moe-proxy fleet up` prints it on the first machine"
)
VARIABLES: Final = {
    # Where memory is short it is ours to give some back: Ray would kill the supervisor.
    "RAY_memory_monitor_refresh_ms": "0",
    # A machine that is off is none of the fleet after 5 s, one that is cut off after 20 s.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "5",
    # The others go on without the first machine, for a year, until it has begun again.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "31536000",
    # Who is told to end does not wait for Serve to move what is on this machine alone.
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    # A supervisor that hangs would be waited for as long as one that drains.
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class RayProblem(Exception):
    """Why there is no Ray to be used, and what to do; for people."""


@dataclass(frozen=True, slots=True)
class Started:
    """A Ray that we have started: its process, when that began, and the cluster's address."""

    pid: int
    began: str
    address: str


def connect(env: Mapping[str, str]) -> bool:
    """Use the Ray that runs on this machine; False where there is none. Raises RayProblem."""
    use_token(env)
    if (address := _address(env)) is None:
        return False
    if "://" not in address and (why := found_ray.why_silent(address)):
        raise RayProblem(f"Ray at {address} does not answer: {why}")
    import ray

    try:
        ray.init(
            address=address,
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )
    except ConnectionError as error:
        raise RayProblem(f"Ray at {address} does not answer: {_line(error)}") from error
    except Exception as error:
        raise RayProblem(f"Ray at {address} cannot be used: {_line(error)}") from error
    return True


def _address(env: Mapping[str, str]) -> str | None:
    """Of the cluster that this machine is in; None where it is in none."""
    if own := started(env):
        return own.address
    given = env.get("RAY_ADDRESS") or "auto"
    if given == "local":  # Ray's word for one of its own
        return None
    if given != "auto":
        return given
    try:
        return found_ray.choose(found_ray.running(), found_ray.last_started(env.get("RAY_TMPDIR")))
    except LookupError as error:
        raise RayProblem(str(error)) from error


def start(head: str | None, port: int, env: Mapping[str, str]) -> Started:
    """Start Ray on this machine, as the first one or for the cluster of `head`; it goes on without
    us. `env` is what our node is to have. Raises RayProblem."""
    if head is not None and (why := found_ray.why_silent(head)):
        raise RayProblem(
            f"nothing answers at {head} ({why}): is that the first machine's address, does its "
            "fleet run (moe-proxy fleet status, there), and does its firewall let this machine in?"
        )
    from ray.util import get_node_ip_address

    own = get_node_ip_address()
    if head is None and (why := found_ray.why_not_listen(own, port)):
        raise RayProblem(why)
    address = f"{own}:{port}" if head is None else head
    folder = _folder(env)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = folder / "ray.log"
    # A head that begins again by itself would be one of an empty cluster.
    kept = () if head is None else (sys.executable, "-m", "proxy.fleet.cluster.keeper", str(log))
    with log.open("wb") as out:
        process = subprocess.Popen(
            (*kept, *command(head, own, port)),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=ray_env(env),
            start_new_session=True,
        )
    found = Started(process.pid, _began(process.pid), address)
    replace(folder / "ray.json", json.dumps(asdict(found)).encode())
    _wait_until_up(process, log)
    return found


def command(head: str | None, own: str, port: int) -> Sequence[str]:
    """Pure."""
    role = (
        ("--head", "--node-ip-address", own, "--port", str(port), "--include-dashboard", "false")
        if head is None
        else ("--address", head)
    )
    return (
        *(sys.executable, "-m", "ray.scripts.scripts", "start", *role, "--block"),
        *("--dashboard-host", "127.0.0.1"),
        *("--resources", json.dumps({RESOURCE: 1})),
        *("--object-store-memory", str(OBJECT_BYTES)),
    )


def ray_env(env: Mapping[str, str]) -> dict[str, str]:
    """Pure."""
    return {**VARIABLES, **env}


def started(env: Mapping[str, str]) -> Started | None:
    """The Ray that we have started here, where it still runs."""
    try:
        data = read_small(_folder(env) / "ray.json", RECORD_BYTES)
        found: Started = decode_json(data, Started, "ray.json")
    except (OSError, BadJson):
        return None
    return found if _began(found.pid) == found.began else None


def end(own: Started, env: Mapping[str, str]) -> None:
    """End it, with all its processes."""
    with suppress(ProcessLookupError):
        os.kill(own.pid, signal.SIGTERM)
    end_s = time.monotonic() + END_S
    while _began(own.pid) == own.began and time.monotonic() < end_s:
        time.sleep(0.1)
    # Some of Ray's would wait for a first machine that is gone.
    with suppress(ProcessLookupError):
        os.killpg(own.pid, signal.SIGKILL)
    (_folder(env) / "ray.json").unlink(missing_ok=True)


def use_token(env: Mapping[str, str]) -> str | None:
    """What Ray asks everybody for who reaches its ports; None where there is none, or another mode
    was chosen. One in the environment is kept for later commands. Raises RayProblem."""
    if env.get("RAY_AUTH_MODE", "token") != "token":
        return None
    file = _token_file(env)
    given, there = env.get("RAY_AUTH_TOKEN"), _token_of(file)
    if given and not there:
        _write_token(file, given)
    elif given and there and given != there:
        raise RayProblem(
            f"RAY_AUTH_TOKEN is another token than the one in {file}: if this machine has changed "
            "its fleet, remove that file"
        )
    token = given or there
    if token:
        _show_token()
    return token


def _show_token() -> None:
    """Ray reads what it is to show when it is imported."""
    if "ray" not in sys.modules:
        os.environ["RAY_AUTH_MODE"] = "token"
    elif os.environ.get("RAY_AUTH_MODE") != "token":
        # What Ray does where it makes one itself, less a hint how to do without.
        from ray._private.authentication.authentication_token_setup import _enable_token_auth

        import_module("ray._raylet").AuthenticationTokenLoader.instance().reset_cache()
        _enable_token_auth()


def make_token(env: Mapping[str, str]) -> str | None:
    """The same, made where there is none: for the first machine."""
    if (token := use_token(env)) is None and env.get("RAY_AUTH_MODE", "token") == "token":
        _write_token(_token_file(env), secrets.token_hex(32))
        token = use_token(env)
    return token


def _token_file(env: Mapping[str, str]) -> Path:
    if named := env.get("RAY_AUTH_TOKEN_PATH"):
        return Path(named)
    return home_of(env) / ".ray" / "auth_token"  # where Ray looks


def _token_of(file: Path) -> str | None:
    try:
        return read_small(file, RECORD_BYTES).decode().strip() or None
    except (OSError, ValueError):
        return None


def _write_token(file: Path, token: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write(token)


def _folder(env: Mapping[str, str]) -> Path:
    state = Path(env.get("XDG_STATE_HOME") or home_of(env) / ".local" / "state")
    return state / "moe-proxy" / "fleet"


def _wait_until_up(process: "subprocess.Popen[bytes]", log: Path) -> None:
    end_s = time.monotonic() + START_S
    while not says_up(log):
        if process.poll() is not None or time.monotonic() > end_s:
            raise _not_started(process, log)
        time.sleep(0.1)


def _not_started(process: "subprocess.Popen[bytes]", log: Path) -> RayProblem:
    if process.poll() is None:
        process.terminate()
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return RayProblem(not_started("\n".join(lines), log))


def not_started(said: str, log: Path) -> str:
    """Pure."""
    last = "\n".join(f"  {line[:200]}" for line in said.splitlines()[-5:])
    hint = NO_TOKEN if "AuthToken" in said or "AuthenticationError" in said else ""
    return f"Ray does not start (all that it says: {log}):\n{last}{hint}"


def _began(pid: int) -> str:
    """What tells a process from a later one with its number; "" where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
