"""Three machines of a fleet on this one: each with a Ray node, a home, policies and models of its
own. What is theirs is known by a folder that all have in their environment."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from tests.support.guard import HANG_S
from tests.support.llama import program
from tests.support.models import model
from tests.support.policies import policies

NODES = ("a", "b", "c")
FLEET = (sys.executable, "-m", "proxy.cli.main", "fleet")
RAY = (sys.executable, "-m", "ray.scripts.scripts")
# A start of Ray, and of all that a fleet needs, on a machine that does other things.
SLOW_S = 2 * HANG_S


class RayFleet:
    """`a` is the first machine, whose Ray `fleet up` starts; the others join by either."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # What all machines have in their environment beside what is theirs.
        self.shared_env: dict[str, str] = {}
        self.ray_port, self.port = _free_ports(2)
        self._machines: dict[str, subprocess.Popen[bytes]] = {}
        self._devices: list[subprocess.Popen[bytes]] = []

    def device(self) -> str:
        """An RPC server on loopback, as `host:port`: one for each model that is to have it."""
        (port,) = _free_ports(1)
        server = (program("ggml-rpc-server"), "-H", "127.0.0.1", "-p", str(port), "-t", "1")
        with (self.folder / "rpc.log").open("ab") as log:
            self._devices.append(subprocess.Popen(server, stdout=log, stderr=log))
        end_s = time.monotonic() + SLOW_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                return f"127.0.0.1:{port}"
            assert time.monotonic() < end_s
            time.sleep(0.05)

    def home(self, name: str) -> Path:
        return self.folder / name

    def policy(self, name: str) -> Path:
        return self.home(name) / "policies" / "p.toml"

    def make_home(self, name: str, text: str | None) -> None:
        """With a model that all have, and one of its own."""
        models = self.home(name) / "models"
        models.mkdir(parents=True)
        (self.home(name) / "policies").mkdir()
        if text is not None:
            self.policy(name).write_text(text)
        (models / "shared.gguf").symlink_to(model(layers=4))
        (models / f"own-{name}.gguf").symlink_to(model(layers=2))

    def env(self, name: str) -> dict[str, str]:
        ours = {
            "HOME": str(self.home(name)),
            "MOE_PROXY_NODE": name,
            "MOE_PROXY_POLICIES": str(self.home(name) / "policies"),
            "RAY_TMPDIR": str(self.folder / "r"),
            # Never another Ray of this machine.
            "RAY_ADDRESS": "local",
            "RAY_AUTH_TOKEN_PATH": str(self.home("a") / ".ray" / "auth_token"),
            "RAY_AUTH_MODE": "token",
            "RAY_memory_monitor_refresh_ms": "0",
            "XDG_RUNTIME_DIR": str(self.folder),
        }
        taken = ("RAY_", "XDG_", "MOE_PROXY_NODE", "MOE_PROXY_POL")
        without = {k: v for k, v in os.environ.items() if not k.startswith(taken)}
        return without | ours | self.shared_env

    def fleet(
        self,
        *words: str,
        fails: bool = False,
        of: str = "a",
        env: Mapping[str, str] | None = None,
    ) -> str:
        """What `moe-proxy fleet` says there; `env` on top of that machine's."""
        done = subprocess.run(
            (*FLEET, *words),
            env=self.env(of) | dict(env or {}),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SLOW_S,
        )
        assert bool(done.returncode) is fails, done.stdout + done.stderr
        return done.stderr if fails else done.stdout

    def start(self) -> str:
        return self.fleet(
            *("up", "--port", str(self.port), "--ray-port", str(self.ray_port), "--name", "a")
        )

    def join_by_up(self, name: str) -> str:
        """As the first machine says it is done."""
        head = self.head
        return self.fleet("up", "--head", head, "--name", name, of=name)

    @property
    def head(self) -> str:
        """Where the first machine's Ray is, once that is started."""
        record = self.home("a") / ".local" / "state" / "moe-proxy" / "fleet" / "ray.json"
        return str(json.loads(record.read_text())["address"])

    def join(self, name: str) -> None:
        """By Ray alone."""
        with (self.folder / f"{name}.log").open("wb") as log:
            self._machines[name] = self._ray(name, self.head, log)
        # One after the other: on one machine, they take turns at what both write.
        end_s = time.monotonic() + SLOW_S
        while "Ray runtime started" not in (said := Path(log.name).read_text()):
            assert self._machines[name].poll() is None, said
            assert time.monotonic() < end_s, said
            time.sleep(0.1)

    def _ray(self, name: str, address: str, log: IO[bytes]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            (
                *(*RAY, "start", "--block", "--address", address),
                *("--resources", '{"moe_proxy": 1}', "--object-store-memory", "100000000"),
                *("--dashboard-agent-listen-port", "0", "--num-cpus", "0"),
            ),
            env=self.env(name),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def nodes(self) -> dict[str, dict[str, Any]]:
        """As `fleet status` tells of them, by name."""
        return {each["name"]: each for each in json.loads(self.fleet("status", "--json"))["nodes"]}

    def until(self, fact: Callable[[dict[str, dict[str, Any]]], Any], what: str) -> Any:
        """The nodes, once that is true of them."""
        end_s = time.monotonic() + SLOW_S
        while not fact(nodes := self.nodes()):
            told = {name: (each["state"], each["says"]) for name, each in nodes.items()}
            assert time.monotonic() < end_s, f"it never came to this: {what} {told}"
            time.sleep(0.5)  # each look is a command, which takes the time of what is waited for
        return nodes

    def ask(
        self, url: str, path: str, body: Mapping[str, Any] | None = None, *, of: str | None = None
    ) -> Any:
        """With the fleet's key; of a front, without. `of`: the machine that a front is to ask."""
        key = self.home("a") / ".local" / "state" / "moe-proxy" / "fleet" / "a" / "key"
        own = {"X-Moe-Proxy-Fleet": key.read_text().strip(), "X-Moe-Proxy-Fleet-Own": "1"}
        headers = {} if url == self.front else own
        if of is not None:
            headers["X-Moe-Proxy-Node"] = of
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url + path, data, headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=SLOW_S) as answer:
            return json.loads(answer.read()) | {"headers": dict(answer.headers)}

    @property
    def front(self) -> str:
        """The one of the first machine."""
        return f"http://127.0.0.1:{self.port}"

    def pids(self, *words: str, of: str | None = None) -> list[int]:
        """Those of our processes (of one machine's) in whose command line all words are."""
        mark = b"RAY_TMPDIR=" + os.fsencode(self.folder / "r")
        home = b"HOME=" + os.fsencode(self.home(of)) if of else mark
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                env = (folder / "environ").read_bytes().split(b"\0")
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if mark in env and home in env and all(word in line for word in words):
                    found.append(int(folder.name))
        return found

    def kill_machine(self, name: str) -> None:
        """As if its plug was pulled: Ray there is gone at once."""
        machine = self._machines.pop(name)
        for pid in self.pids("raylet/raylet", of=name):
            os.kill(pid, signal.SIGKILL)
        machine.kill()
        machine.wait()

    def end(self) -> None:
        """Whatever is left."""
        for pid in self.pids():
            if pid != os.getpid():
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        for child in (*self._machines.values(), *self._devices):
            child.kill()
            child.wait()


@contextlib.contextmanager
def ray_fleet() -> Iterator[RayFleet]:
    """Nothing of it runs yet."""
    # Short: sockets are in it.
    folder = Path(tempfile.mkdtemp(prefix="rf-"))
    fleet = RayFleet(folder)
    text = policies({}, catalog={"ollama": False, "dirs": ["~/models"]}, defaults={"ctx": 2048})
    for name in NODES:
        fleet.make_home(name, text if name == "a" else None)
    try:
        yield fleet
    finally:
        fleet.end()
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
