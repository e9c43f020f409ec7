"""Writes constraints.txt: the newest versions of everything that the project needs, exactly.

Resolved by pip in an environment of its own, so what happens to be installed has no say. Where the
packages came from is not written down.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEAD = "# Made by `make constraints`; what is asked for stands in pyproject.toml.\n"


def main() -> int:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["dev"],
        *project["project"]["optional-dependencies"]["fuzz"],
        *project["project"]["optional-dependencies"]["fleet"],
        *project["build-system"]["requires"],
        "scikit-build-core",  # builds llama-cpp-python
    ]
    with tempfile.TemporaryDirectory() as folder:
        report = resolve(wanted, Path(folder))
    pins = {
        re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower(): item["metadata"]["version"]
        for item in report["install"]
    }
    lines = [f"{name}=={version}\n" for name, version in sorted(pins.items())]
    (ROOT / "constraints.txt").write_text(HEAD + "".join(lines))
    print(f"constraints.txt: {len(lines)} packages")
    return 0


def resolve(requirements: list[str], folder: Path) -> dict[str, list[dict[str, dict[str, str]]]]:
    """pip's report of what it would install for `requirements` in an empty environment."""
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    report = folder / "report.json"
    command = [str(folder / "venv/bin/python"), "-m", "pip", "install", "--quiet", "--dry-run"]
    command += ["--ignore-installed", "--report", str(report), *requirements]
    subprocess.run(command, check=True)
    result: dict[str, list[dict[str, dict[str, str]]]] = json.loads(report.read_text())
    return result


if __name__ == "__main__":
    sys.exit(main())
