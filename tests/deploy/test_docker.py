"""The image and compose, as far as can be seen without Docker: that what they name is there, that
it fits together, and that the container's command serves what is asked of it."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import aiohttp
import llama_build
import pytest
import yaml
from prepare import INPUTS

from proxy.cli.main import _parser
from proxy.policy.load import load
from tests.support import image
from tests.support.guard import HANG_S
from tests.support.image import DOCKERFILE, POLICIES, ROOT, in_context, values
from tests.support.systemd import service

DOCKER = DOCKERFILE.parent
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
each = pytest.mark.parametrize("name", SERVICES)


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def drain_s(folder: Path) -> float:
    loaded = load(folder, {"HOME": "/nowhere"})
    assert loaded.policies is not None, loaded.problems
    return loaded.policies.server.drain_s


# --- the image ---


@pytest.mark.parametrize("gpu", ["none", "cuda"])
def test_there_is_an_image_for_each_kind(gpu: str) -> None:
    stages = [stage.partition(" AS ") for stage in values("FROM")]
    bases = [base for base, _, _ in stages]
    named = {name: base for base, _, name in stages if name}

    assert gpu in llama_build.GPU_FLAGS
    assert {f"build-{gpu}", f"run-{gpu}"} <= named.keys()
    assert {"build-${GPU}", "run-${GPU}"} <= set(bases)
    # The copy links the Python that it was made with.
    assert named[f"build-{gpu}"].split("-")[-1] == named[f"run-{gpu}"].split("-")[-1]


def test_the_build_has_all_that_the_set_up_reads_and_nothing_of_yours() -> None:
    patterns = [*INPUTS, "README.md", "Makefile", "deploy/*.service", "deploy/*.socket"]
    needed = [path.relative_to(ROOT) for pattern in patterns for path in ROOT.glob(pattern)]
    needed += [path.relative_to(ROOT) for path in (ROOT / "proxy").rglob("*.*")]
    made = {".so", ".pyc"}

    left_out = [str(path) for path in needed if not in_context(str(path))]

    assert [path for path in left_out if Path(path).suffix not in made] == []
    for theirs in (
        ".git/config",
        ".venv/bin/python",
        "policies/mine.toml",
        "proxy/x.so",
        ".cache/a",
    ):
        assert not in_context(theirs)
    assert not in_context("deploy/docker/models/x.gguf")
    assert in_context("policies/default.toml")


def test_what_is_copied_is_there() -> None:
    from_here = [value.split() for value in values("COPY") if not value.startswith("--from")]

    assert len(from_here) >= 2
    for *sources, _ in from_here:
        for source in sources:
            assert (ROOT / source).exists()
            assert source == "." or in_context(source)


def test_the_command_is_one_of_ours_and_its_policies_are_good() -> None:
    arguments = vars(_parser()[0].parse_args(image.command()))

    assert arguments["command"] == "serve"
    assert arguments["policies"] == Path(POLICIES)
    assert ["deploy/docker/policies", POLICIES] in [value.split() for value in values("COPY")]
    assert drain_s(DOCKER / "policies") > 0


async def test_what_a_container_runs_serves_and_its_health_check_sees_it(tmp_path: Path) -> None:
    """The image's command and health check, with this installation, this folder's policies and a
    free port in place of the container's."""
    here = {POLICIES: str(DOCKER / "policies"), "python": sys.executable}
    arguments = [here.get(word, word) for word in image.command()[1:]]

    async with service(tmp_path, *arguments, "--port", "0") as proxy:
        told = await proxy.until("serving")
        port = told["url"].rpartition(":")[2]
        asked = [
            here.get(word, word).replace(":11434", f":{port}") for word in image.health_check()
        ]
        assert await exit_status(asked) == 0
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(HANG_S)) as session:
            for host, status in (("moe-proxy", 200), ("stranger", 403)):
                headers = {"Host": f"{host}:11434"}
                async with session.get(
                    f"http://127.0.0.1:{port}/api/version", headers=headers
                ) as answer:
                    assert answer.status == status
        proxy.process.terminate()
        assert await proxy.ended() == 0

    assert await exit_status(asked) != 0


async def exit_status(command: list[str]) -> int:
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    async with asyncio.timeout(HANG_S):
        return await process.wait()


def test_the_health_check_asks_the_port_that_is_exposed() -> None:
    assert f":{values('EXPOSE')[-1]}/health" in " ".join(image.health_check())


# --- compose ---


@each
def test_a_service_builds_this_image_in_its_profile(name: str) -> None:
    build = SERVICES[name]["build"]
    arguments = {value.partition("=")[0] for value in values("ARG")}

    assert SERVICES[name]["profiles"] == [name]
    assert (DOCKER / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]) == DOCKERFILE
    assert build["args"].keys() <= arguments
    assert build["args"]["GPU"] in llama_build.GPU_FLAGS


@each
def test_a_service_has_what_the_image_expects(name: str) -> None:
    one: dict[str, Any] = SERVICES[name]
    home, runtime = image.environment()["HOME"], image.environment()["XDG_RUNTIME_DIR"]
    user = values("USER")[-1].partition(":")[0]

    assert one["ports"] == [f"127.0.0.1:11434:{values('EXPOSE')[-1]}"]
    targets = {part for volume in one["volumes"] for part in volume.split(":")}
    assert {POLICIES, home, "/models"} <= targets
    assert f"{runtime}:uid={user},gid={user},mode=0700" in one["tmpfs"]
    assert (DOCKER / "policies").is_dir()
    assert seconds(one["stop_grace_period"]) >= drain_s(DOCKER / "policies") + 30
    assert one["networks"]["default"]["aliases"] == ["moe-proxy"]


def test_models_are_where_the_policies_look() -> None:
    loaded = load(DOCKER / "policies", {"HOME": "/nowhere"})

    assert loaded.policies is not None
    assert loaded.policies.catalog.dirs == (Path("/models"),)
    assert loaded.policies.server.hosts == ("moe-proxy",)


def test_cards_are_for_the_cuda_service_alone() -> None:
    devices = SERVICES["cuda"]["deploy"]["resources"]["reservations"]["devices"]

    assert devices == [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
    assert "deploy" not in SERVICES["cpu"]
