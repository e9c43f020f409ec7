"""The steps in order, each resumable; run by run.sh."""

import argparse
import asyncio
import os
import platform
import subprocess
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path

from bench.gpu.bigmodel import MODELS, make_model, path_of
from bench.gpu.build import build, commands
from bench.gpu.moves import moves
from bench.gpu.report import report, size
from bench.gpu.speed import speed
from bench.gpu.work import GO_ON, OutOfTime, Results, Settings, StepFailed
from proxy.observe.log import setup
from proxy.policy.units import parse_size

STEPS = ("build", "model", "moves", "speed")


def main() -> int:
    settings, steps, dry = arguments()
    results = Results(settings.work / "results.json")
    if dry:
        print(plan(settings, steps, results))
        return 0
    setup("console", "error")
    status = 0
    try:
        for step in steps:
            print(f"{step}:", flush=True)
            run(step, settings, results)
    except OutOfTime as error:
        print(f"the time limit comes before {error}: the same command goes on from here")
        status = GO_ON
    except StepFailed as error:
        print(f"failed: {error}", file=sys.stderr)
        status = 1
    except Exception:
        # What was measured before is still worth having.
        traceback.print_exc()
        status = 1
    if results.cells:
        write_report(settings, results)
    return status


def run(step: str, settings: Settings, results: Results) -> None:
    if step == "build":
        print(f"  {build(settings)}", flush=True)
    elif step == "model":
        print(f"  {make_model(settings)}", flush=True)
    else:
        asyncio.run((moves if step == "moves" else speed)(settings, results))


def plan(settings: Settings, steps: tuple[str, ...], results: Results) -> str:
    """What would be done, and what is there already."""
    caps = ", ".join(map(size, settings.caps))
    model = path_of(settings)
    says = {
        "build": "\n  ".join(" ".join(command) for command in commands(settings)),
        "model": f"{model} {'is there' if model.exists() else 'is to be written'}",
        "moves": f"live moves with {caps.split(', ')[0]} and {caps.split(', ')[-1]} free",
        "speed": f"three ways to place it, with {caps} free, 0 and {settings.depth} tokens deep",
    }
    lines = [f"{step}:\n  {says[step]}" for step in steps]
    return "\n".join([*lines, f"results so far: {len(results.cells)}, in {settings.work}"])


def write_report(settings: Settings, results: Results) -> None:
    text = report(
        results.cells,
        machine=machine(settings),
        model=f"generated {settings.shape}, {size(path_of(settings).stat().st_size)}",
        date=datetime.now(UTC).date().isoformat(),
    )
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / "gpu.md").write_text(text)
    (settings.out / "results.json").write_text((settings.work / "results.json").read_text())
    print(f"\n{text}\nwritten to {settings.out / 'gpu.md'}")


def machine(settings: Settings) -> str:
    """The machine in words."""
    host = f"{os.cpu_count()} cores, {platform.machine()}"
    if settings.cpu:
        return f"no GPU (a trial on an RPC device; --fit does not see its cap), {host}"
    ask = ["nvidia-smi", "--id=0", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return f"{subprocess.run(ask, capture_output=True, text=True).stdout.strip()}, {host}"


def arguments() -> tuple[Settings, tuple[str, ...], bool]:
    parser = argparse.ArgumentParser(prog="run.sh", description="see docs/performance.md")
    add = parser.add_argument
    add("--steps", default=",".join(STEPS), type=_steps, help="some of " + ",".join(STEPS))
    add("--shape", choices=sorted(MODELS), help="which model to generate")
    add("--caps", type=_sizes, help="free memory to measure with, as 8GiB,12GiB,16GiB,24GiB")
    add("--reserve", type=_size, help="what the proxy and --fit leave free of it")
    add("--depth", type=int, help="tokens before the deep measurement")
    add("--arch", default="native", help="CUDA architecture, as 89 or 90")
    add("--threads", type=int)
    add("--limit-s", type=float, default=570.0, help="stop in time for a limit of so many seconds")
    add("--work", type=Path, default=Path("build/gpu"), help="what is to be kept between runs")
    add("--model-folder", type=Path, help="where there is room for tens of GB (default: --work)")
    add("--out", type=Path, default=Path(os.environ.get("OUT") or "build/gpu"), help="for gpu.md")
    add("--pack", type=Path, default=Path("build/gpu-pack"))
    add("--cpu", action="store_true", help="try it without a GPU, with a tiny model")
    add("--unconfined", action="store_true", help="let workers do what they like, for comparison")
    add("--dry-run", action="store_true", help="say what would be done")
    given = parser.parse_args()
    usual = _sizes("24MiB,40MiB" if given.cpu else "8GiB,12GiB,16GiB,24GiB")
    settings = Settings(
        pack=given.pack.absolute(),
        work=given.work.absolute(),
        out=given.out.absolute(),
        model_folder=(given.model_folder or given.work).absolute(),
        shape=given.shape or ("tiny" if given.cpu else "qwen3-30b-a3b"),
        caps=given.caps or usual,
        reserve=given.reserve or ((1 if given.cpu else 512) << 20),
        depth=(256 if given.cpu else 16384) if given.depth is None else given.depth,
        arch=given.arch,
        cpu=given.cpu,
        confine=not given.unconfined,
        threads=given.threads or (1 if given.cpu else None),
        settle_s=0.4 if given.cpu else 2.0,
        limit_s=given.limit_s,
    )
    return settings, given.steps, given.dry_run


def _steps(text: str) -> tuple[str, ...]:
    steps = tuple(text.split(","))
    if unknown := set(steps) - set(STEPS):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: use some of {', '.join(STEPS)}")
    return steps


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(sorted(map(_size, text.split(","))))


if __name__ == "__main__":
    sys.exit(main())
