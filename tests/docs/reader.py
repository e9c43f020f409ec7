"""Somebody who pastes from the pages: a home of their own, a real proxy, and a small model by every
name that the pages use."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from proxy.demo import trained
from tests.docs.pages import ROOT, programs
from tests.support.guard import HANG_S
from tests.support.llama import RpcServer
from tests.support.models import model
from tests.support.policies import policies
from tests.support.served import served

PORT = "11434"
NAMES = ("qwen3:30b", "qwen3-coder:30b", "gpt-oss:20b", "MODEL", "claude-*")
# What the pages take for pulled.
PULLED = "hf.co/unsloth/Qwen3-30B-A3B-GGUF:Q4_K_M"
# As many layers as gpt-oss:120b has, so that splits mean what the pages say.
LAYERS = 36
SIZES = {"width": 64, "expert_width": 64, "experts": 8, "heads": 2, "head_width": 32}
# What goes on until Ctrl-C.
ENDLESS = re.compile(r"moe-proxy (ps --watch|logs -f)|curl -N ")
# The same with less of it, or without what it would change.
LESS = (
    (r"(moe-proxy bench \S+) *(#.*)?$", r"\1 --splits 0,36 --rounds 1 --prompt 16 --tokens 4"),
    (r"--splits 0,10,20,30", "--splits 0,36 --rounds 1 --prompt 16 --tokens 4"),
    (r"\binstall-service", "install-service --dry-run"),
    (r"(?:~/\.local/lib/moe-proxy|/opt/moe-proxy|\.venv)/bin/(?=moe-proxy)", ""),
    (r"/etc/moe-proxy\b", "policies"),
)
IN_THE_CLONE = {"make", "bench/gpu/run.sh"}
# Nothing else is run, whatever stands on a page: a mistake there must not change this machine.
MAY_RUN = {"moe-proxy", "make", "curl", "bench/gpu/run.sh", "."}


class Reader:
    """Runs what stands on the pages. Made by `reading`."""

    def __init__(self, home: Path, url: str) -> None:
        self.home, self.url = home, url
        others = ("MOE_PROXY_", "OLLAMA_")
        self.env = {name: v for name, v in os.environ.items() if not name.startswith(others)}
        self.env |= {"HOME": str(home), "XDG_RUNTIME_DIR": str(home)}
        self.env["MAKEFLAGS"] = "n"  # it says what it would do, and does nothing
        # What `. .venv/bin/activate` of the README finds.
        (home / ".venv").symlink_to(sys.prefix)
        self.env["PATH"] = f"{home / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"

    def run(self, command: str) -> str:
        """What it prints. Fails where its exit status is not 0, or an error came over HTTP."""
        command = self.may_run(command)
        if "bench " in command:
            self._bash("moe-proxy unload gpt-oss:120b")  # or it refuses, as the page says
        return self._bash(command, ROOT if programs(command) & IN_THE_CLONE else self.home)

    def _bash(self, command: str, folder: Path | None = None) -> str:
        ended = subprocess.run(
            ["bash", "-ec", command.replace("curl ", "curl --fail-with-body -sS ", 1)],
            cwd=folder or self.home,
            env=self.env,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=2 * HANG_S,
        )
        assert ended.returncode == 0, f"{command}\n{ended.stdout}{ended.stderr}"
        return ended.stdout

    def follow(self, command: str) -> str:
        """The first that something says which goes on until Ctrl-C."""
        with subprocess.Popen(
            ["bash", "-c", f"exec {self.may_run(command)}"],
            cwd=self.home,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout is not None
            try:
                return process.stdout.readline()
            finally:
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(HANG_S)
                process.kill()

    def python(self, text: str) -> None:
        """In this process: what it imports is large, and here already."""
        exec(compile(self.here(text), "snippet", "exec"), {})

    def save(self, name: str, text: str) -> None:
        """A file in their home."""
        (self.home / name).write_text(text)

    def may_run(self, command: str) -> str:
        """The command as it is run here. Fails for what neither may be run nor is on the list;
        folders in their home may be made."""
        here = self.here(command)
        but_folders = re.sub(r"\bmkdir -p ~/\S+( ~/\S+)* *(&&|$)", "", here)
        ours = programs(but_folders) <= MAY_RUN and not re.search(r"\$\(|`|>\s*/", here)
        assert ours, f"not to be run, and not in tests/docs/not_run.py: {here}"
        assert "curl" not in here or self.url in here, f"asks somebody else: {here}"
        return here

    def here(self, text: str) -> str:
        """The same with this proxy's address, and less of what takes long."""
        for wanted, instead in LESS:
            text = re.sub(wanted, instead, text, flags=re.MULTILINE)
        return text.replace(f"127.0.0.1:{PORT}", self.url.removeprefix("http://"))


@contextlib.contextmanager
def reading(home: Path, rpc: RpcServer | str) -> Iterator[Reader]:
    """A reader with a proxy that serves on the device `rpc`."""
    path = model(layers=LAYERS, sizes=SIZES)
    text = policies(
        {"gpt-oss:120b": {"path": path, "aliases": list(NAMES), "params": {"n_predict": 8}}},
        devices={"rpc": [rpc], "low": "1MiB", "reserve": "1MiB"},
        defaults={"ctx": 2048, "parallel": 2, "keep_alive": "-1"},
    )
    with served(home, text) as url:
        (home / "policies").mkdir()
        (home / "policies" / "mine.toml").symlink_to(home / "policies.toml")
        reader = Reader(home, url)
        reader.save("Modelfile", f"FROM {path}\n")
        demo = trained.path_in(home / ".cache" / "moe-proxy")
        demo.parent.mkdir(parents=True)
        demo.symlink_to(path)
        reader.run(f"moe-proxy create {PULLED} -f Modelfile")
        yield reader
