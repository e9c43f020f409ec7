"""A build of llama.cpp that seems to have an expert cache: the real one, but for two small
libraries before it (llama.cpp and server.cpp here say what they do).

$MOE_PROXY_CACHE_BUILD names the folder of a real build with one, for all tests in its place. It
needs ggml-rpc-server there, which is of the same release then.
"""

import hashlib
import os
import subprocess
import sysconfig
import tempfile
from contextlib import suppress
from pathlib import Path

from proxy.engine.build_options import EXPERT_CACHE, LIBRARY
from proxy.worker.libraries import default_libdir
from tests.support import archive

HERE = Path(__file__).parent
GIVEN = os.environ.get("MOE_PROXY_CACHE_BUILD")
REAL = "real"


def cache_build() -> Path:
    """The folder, for `engine.libdir`; made once."""
    if GIVEN:
        return Path(GIVEN)
    libraries = default_libdir()
    made_of = (HERE / "llama.cpp", HERE / "server.cpp", Path(__file__))
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in made_of))
    digest.update(f"{libraries} {(libraries / LIBRARY).stat().st_mtime_ns}".encode())
    folder = archive.cache_folder() / f"cache-build-{digest.hexdigest()[:12]}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".cache-build-"))
        _make(libraries, new)
        with suppress(OSError):  # another test made it meanwhile
            new.rename(folder)
    return folder


def _make(libraries: Path, folder: Path) -> None:
    (folder / REAL).mkdir()
    for file in libraries.glob("lib*.so*"):
        (folder / REAL / file.name).symlink_to(file)
        if file.name not in ("libllama.so", "libllama-server-impl.so", LIBRARY):
            (folder / file.name).symlink_to(file)
    # By its text it is known.
    known = (libraries / LIBRARY).read_bytes() + b"\0" + EXPERT_CACHE.encode() + b"\0"
    (folder / LIBRARY).write_bytes(known)
    llama, server = folder / "libllama.so", folder / "libllama-server-impl.so"
    _compile("llama.cpp", llama, folder / REAL / "libllama.so.0")
    _compile("server.cpp", server, folder / REAL / server.name, llama)


def _compile(source: str, file: Path, *beside: Path) -> None:
    command = (
        *("c++", "-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Werror"),
        *("-I", str(Path(sysconfig.get_paths()["purelib"], "include"))),
        # Another name, so that the real one is not taken to be there already.
        f"-Wl,-soname,stand-in-{file.name},--no-as-needed,--allow-shlib-undefined",
        # The old kind: it comes before LD_LIBRARY_PATH, where this folder may be.
        f"-Wl,--disable-new-dtags,-rpath,$ORIGIN/{REAL}",
        *("-o", str(file), str(HERE / source), *map(str, beside)),
    )
    subprocess.run(command, check=True)
