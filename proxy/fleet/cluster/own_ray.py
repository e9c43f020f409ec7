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
from dataclasses import replace as replaced
from importlib import import_module
from pathlib import Path
from typing import Final

from proxy.files import BadJson, decode_json, read_small, replace
from proxy.fleet.cluster import asked_ray, found_ray, machines
from proxy.fleet.cluster.keeper import says_up
from proxy.fleet.names import NAMESPACE, RESOURCE
from proxy.policy.values import home_of

PORT: Final = 6379
START_S: Final = 60.0
END_S: Final = 90.0
KILLED_S: Final = 2.0
# Ray keeps a share of the memory for objects that are passed around. Ours are small.
OBJECT_BYTES: Final = 100 << 20
RECORD_BYTES: Final = 4096
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
    """A Ray that we have started: its process, when that began, and the cluster's address; whether
    it was told to end."""

    pid: int
    began: str
    address: str
    ends: bool = False


def connect(env: Mapping[str, str]) -> bool:
    """Use the Ray that runs on this machine; False where there is none. Raises RayProblem."""
    token = use_token(env)
    if (address := address_of(env)) is None:
        return False
    if "://" not in address:
        if why := found_ray.why_silent(address):
            raise RayProblem(f"Ray at {address} does not answer: {why}")
        _ask(address, env, token)
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
    keep_token(env)
    return True


def _ask(address: str, env: Mapping[str, str], token: str | None) -> None:
    """Raises RayProblem where it will not have us."""
    file = _token_file(env)
    if why := asked_ray.why_not(address, env, token, str(file) if file.exists() else ""):
        raise RayProblem(why)


def address_of(env: Mapping[str, str]) -> str | None:
    """Of the cluster that this machine is in; None where it is in none. Raises RayProblem."""
    if own := started(env):
        if not own.ends:
            return own.address
        end(own, env)  # who has told it to has not waited
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
    token = use_token(env)
    if head is not None:
        _ask(head, env, token)
    from ray.util import get_node_ip_address

    own = get_node_ip_address() if head is None else get_node_ip_address(head)
    if why := asked_ray.why_not_shown(own, env):
        raise RayProblem(why)
    if head is None and (why := found_ray.why_not_listen(own, port)):
        raise RayProblem(why)
    address = f"{own}:{port}" if head is None else head
    where = folder(env)
    where.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = where / "ray.log"
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
    _note(found, env)
    _wait_until_up(process, log, found, env)
    keep_token(env)
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
        data = read_small(folder(env) / "ray.json", RECORD_BYTES)
        found: Started = decode_json(data, Started, "ray.json")
    except (OSError, BadJson):
        return None
    return found if _began(found.pid) == found.began else None


def own_machine(env: Mapping[str, str]) -> str:
    """Ray's id of this machine, for who is connected."""
    own = started(env)
    return (found_ray.node_of(own.pid) if own else None) or machines.own_machine()


def end(own: Started, env: Mapping[str, str]) -> None:
    """End it, with all its processes."""
    _note(replaced(own, ends=True), env)
    with suppress(ProcessLookupError):
        os.kill(own.pid, signal.SIGTERM)
    end_s = time.monotonic() + END_S
    while _began(own.pid) == own.began and time.monotonic() < end_s:
        time.sleep(0.1)
    # Some of Ray's would wait for a first machine that is gone.
    with suppress(ProcessLookupError):
        os.killpg(own.pid, signal.SIGKILL)
    (folder(env) / "ray.json").unlink(missing_ok=True)


def use_token(env: Mapping[str, str]) -> str | None:
    """What Ray asks everybody for who reaches its ports; None where there is none, or another mode
    was chosen. Raises RayProblem."""
    if env.get("RAY_AUTH_MODE", "token") != "token":
        return None
    file = _token_file(env)
    given, there = env.get("RAY_AUTH_TOKEN"), _token_of(file)
    if given and there and given != there:
        raise RayProblem(
            f"RAY_AUTH_TOKEN is another token than the one in {file}: if this machine has changed "
            "its fleet, remove that file"
        )
    token = given or there
    if token:
        _show_token()
    return token


def keep_token(env: Mapping[str, str]) -> None:
    """One in the environment is there for later commands too, once a Ray has taken it."""
    file = _token_file(env)
    if (token := use_token(env)) and not _token_of(file):
        _write_token(file, token)


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


def folder(env: Mapping[str, str]) -> Path:
    state = Path(env.get("XDG_STATE_HOME") or home_of(env) / ".local" / "state")
    return state / "moe-proxy" / "fleet"


def _wait_until_up(
    process: "subprocess.Popen[bytes]", log: Path, found: Started, env: Mapping[str, str]
) -> None:
    """What has not started, or is not waited for, is ended."""
    end_s = time.monotonic() + START_S
    try:
        while not says_up(log):
            if process.poll() is not None or time.monotonic() > end_s:
                raise RayProblem(not_started(log.read_text(errors="replace"), log))
            time.sleep(0.1)
    except BaseException:
        end(found, env)
        with suppress(subprocess.TimeoutExpired):
            process.wait(KILLED_S)
        raise


def not_started(said: str, log: Path) -> str:
    """Pure."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["nothing"]
    # The last line of a traceback says most of it.
    return f"Ray does not start (all that it says: {log}): {lines[-1][:300]}"


def _note(own: Started, env: Mapping[str, str]) -> None:
    replace(folder(env) / "ray.json", json.dumps(asdict(own)).encode())


def _began(pid: int) -> str:
    """What tells a process from a later one with its number; "" where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
