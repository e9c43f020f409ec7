"""Packs what a machine without a network needs: llama.cpp's source, and wheels for its Python.

    python -m bench.gpu.pack [--python 3.12] [--cmake] [--to build/gpu-pack]

Needs llama-cpp-python's source archive, which `make test` keeps in .cache, and for wheels pip.
"""

import argparse
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

from tests.support.archive import REPOSITORY, source_archive

SOURCE = "llama.cpp.tar.xz"
PLACE = "vendor/llama.cpp/"
# Most of the archive, and nothing that is compiled here.
LEFT_OUT = (
    *("models", "docs", "media", "tests", "benches", "gguf-py", ".git", ".github"),
    *("tools/ui/src", "tools/ui/tests", "tools/ui/static", "tools/ui/package-lock.json"),
)
# What may go along where a GPU is lent for a while, with the checkout itself, which is some MiB.
MOST_BYTES = 58 << 20
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def wanted(name: str) -> bool:
    """Whether a member of the archive goes along."""
    _, _, inside = name.partition("/")  # the archive's own folder
    path = inside.removeprefix(PLACE)
    return path != inside and not any(path == p or path.startswith(p + "/") for p in LEFT_OUT)


def pack_source(archive: Path, to: Path) -> None:
    """Write llama.cpp's source, without what is not compiled, to `to`."""
    with tarfile.open(archive) as source, tarfile.open(to, "w:xz") as packed:
        for member in source:
            if wanted(member.name):
                member.name = "llama.cpp/" + member.name.partition("/")[2].removeprefix(PLACE)
                # A long name stands here too, and would be written instead of the new one.
                member.pax_headers = {}
                packed.addfile(member, source.extractfile(member) if member.isfile() else None)


def download_wheels(folder: Path, python: str, *, cmake: bool) -> None:
    """The project's own dependencies but llama-cpp-python, which is built there."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    needed = [d for d in project["dependencies"] if not d.startswith("llama-cpp-python")]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--only-binary=:all:",
        "--dest",
        str(folder),
    ]
    command += ["--python-version", python, "--constraint", str(REPOSITORY / "constraints.txt")]
    command += [word for platform in PLATFORMS for word in ("--platform", platform)]
    subprocess.run([*command, *needed], check=True)
    if cmake:
        subprocess.run([*command, "cmake", "ninja"], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", help="that machine's Python, as 3.12; without it, no wheels")
    parser.add_argument("--cmake", action="store_true", help="take CMake and ninja along")
    parser.add_argument("--to", type=Path, default=REPOSITORY / "build" / "gpu-pack")
    options = parser.parse_args()
    options.to.mkdir(parents=True, exist_ok=True)
    pack_source(source_archive(), options.to / SOURCE)
    if options.python:
        download_wheels(options.to / "wheels", options.python, cmake=options.cmake)
    print(f"{options.to}: {checked_size(options.to) / (1 << 20):.0f} MiB")


def checked_size(pack: Path) -> int:
    """In bytes. Exits where it is too large to be taken along."""
    sizes = {file: file.stat().st_size for file in pack.rglob("*") if file.is_file()}
    if (total := sum(sizes.values())) > MOST_BYTES:
        largest = sorted(sizes, key=lambda file: sizes[file])[-3:]
        sys.exit(
            f"{pack}: {total >> 20} MiB, more than {MOST_BYTES >> 20}; leave out --cmake, or of "
            f"{', '.join(file.name for file in largest)} what is there already"
        )
    return total


if __name__ == "__main__":
    main()
