"""Has a fuzzer look for bytes that a reader does not stand; `make fuzz` runs it.

    python -m tests.fuzz.run [--seconds N] [TARGET...]

Coverage of our code leads it (atheris, on libFuzzer). Each target runs in a process of its own, and
what it has found worth knowing is kept in .cache/fuzz/TARGET: the next run goes on from there. An
input that fails, takes too long or too much memory is left in .cache/fuzz/found, and the exit
status is 1.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / ".cache" / "fuzz"
LONGEST: Final = 64 << 10
# libFuzzer's own bounds, for what never comes back to us: seconds for one input, and MiB in all.
TIMEOUT_S: Final = 20
MEMORY_MB: Final = 1024


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target; 60")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    options = parser.parse_args()
    if options.one:
        fuzz(options.targets[0], options.seconds)
        return 0
    return run_all(options.targets, options.seconds)


def run_all(names: list[str], seconds: int) -> int:
    """One target after the other. The exit status: 1 where something was found."""
    from tests.fuzz.targets import TARGETS

    failed = []
    for name in names or TARGETS:
        if name not in TARGETS:
            raise SystemExit(f"there is no target {name!r}; there is {', '.join(TARGETS)}")
        command = (sys.executable, "-m", "tests.fuzz.run", "--one", "--seconds", str(seconds), name)
        done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
        # libFuzzer's last words: how many inputs there were, or what was wrong with one.
        lines = done.stderr.strip().splitlines()
        tail = lines[-1:] if done.returncode == 0 else lines[-40:]
        sys.stdout.write("\n".join((f"== {name}", *tail)) + "\n")
        sys.stdout.flush()
        failed += [name] if done.returncode else []
    if failed:
        sys.stdout.write(f"found something: {', '.join(failed)}; see {FOLDER / 'found'}\n")
    return 1 if failed else 0


def fuzz(name: str, seconds: int) -> None:
    """Does not return: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["proxy"]):
        from tests.fuzz.targets import TARGETS
    from tests.fuzz.bounds import little_growth, little_time

    target = TARGETS[name]
    corpus, found = FOLDER / name, FOLDER / "found"
    for folder in (corpus, found):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = FOLDER / f"{name}.words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words if len(word) <= 64))

    def read(data: bytes) -> None:
        with little_growth(), little_time():
            target.feed(data)

    for seed in target.seeds():  # what is made once is not the first input's fault
        target.read(seed)
    arguments = [
        sys.argv[0],
        str(corpus),
        f"-artifact_prefix={found}/{name}-",
        f"-dict={words}",
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST}",
        f"-timeout={TIMEOUT_S}",
        f"-rss_limit_mb={MEMORY_MB}",
        "-print_final_stats=0",
    ]
    atheris.Setup(arguments, read)
    os.nice(10)
    atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    sys.exit(main())
