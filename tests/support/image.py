"""The Dockerfile and .dockerignore, read as far as tests ask."""

import json
import re
from fnmatch import translate
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
POLICIES = "/etc/moe-proxy"


@cache
def instructions() -> tuple[tuple[str, str], ...]:
    """The words of the Dockerfile and what stands behind them, in their order."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    whole = re.sub(r"\\\n\s*", "", "\n".join(lines))
    pairs = (line.partition(" ") for line in whole.splitlines() if line)
    return tuple((word, rest.strip()) for word, _, rest in pairs)


def values(word: str) -> list[str]:
    return [rest for each, rest in instructions() if each == word]


def command() -> list[str]:
    """What a container runs, but for the program itself."""
    entry, command = json.loads(values("ENTRYPOINT")[-1]), json.loads(values("CMD")[-1])
    assert entry == ["moe-proxy"]
    return list(command)


def environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in values("ENV")[-1].split())


def health_check() -> list[str]:
    _, _, asked = values("HEALTHCHECK")[-1].partition(" CMD ")
    return list(json.loads(asked))


def in_context(path: str) -> bool:
    """Whether .dockerignore lets a file into the build: the last pattern that fits decides, and one
    that fits a folder fits all in it."""
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = True
    parents = [str(parent) for parent in Path(path).parents][:-1]
    for line in patterns:
        if line and not line.startswith("#"):
            fits = re.compile(_expression(line.removeprefix("!")))
            if any(fits.fullmatch(each) for each in (path, *parents)):
                let_in = line.startswith("!")
    return let_in


def _expression(pattern: str) -> str:
    """As Docker means it: from the root on, with ** for any folders, and * within one."""
    name = pattern.removeprefix("**/")
    anywhere = "" if name == pattern else "(?:.*/)?"
    return anywhere + translate(name).replace(".*", "[^/]*")
