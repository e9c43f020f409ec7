"""What a fleet is deployed with: units, a Ray cluster file, a Serve config."""

import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from proxy.fleet.cluster import machine, own_ray
from proxy.fleet.names import APPLICATION, RESOURCE
from tests.deploy.test_units import DEPLOY, analyze, analyzed, score

FLEET = DEPLOY / "fleet"
UNITS = pytest.mark.parametrize("name", ["moe-proxy-head.service", "moe-proxy-node.service"])
with_ray = pytest.mark.skipif(
    find_spec("ray") is None, reason="Ray is not installed: pip install 'moe-proxy[fleet]'"
)


def installed(folder: Path, name: str) -> Path:
    """With programs that are there."""
    unit = folder / name
    text = (FLEET / name).read_text()
    unit.write_text(re.sub(r"/opt/moe-proxy/bin/\w[\w-]*", sys.executable, text))
    return unit


@analyzed
@UNITS
def test_systemd_finds_nothing_wrong_with_a_unit(tmp_path: Path, name: str) -> None:
    (tmp_path / "environment").write_text("MOE_PROXY_HEAD=10.0.0.1:6379\n")

    said = analyze(tmp_path, "verify", str(installed(tmp_path, name)))

    assert (said.returncode, said.stderr) == (0, "")


@analyzed
@UNITS
def test_it_is_exposed_by_little_more_than_moe_proxy_alone(tmp_path: Path, name: str) -> None:
    path = installed(tmp_path, name)

    assert score(analyze(tmp_path, "security", "--offline=true", str(path))) < 2.5


@UNITS
def test_ray_is_started_as_fleet_up_would(name: str) -> None:
    text = (FLEET / name).read_text().replace("\\\n", "")
    (start,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    ours = own_ray.command(None if "--head" in start else "X", "", own_ray.PORT)

    # Its address is the machine's own to say.
    wanted = {word for word in ours if word.startswith("--")} - {"--node-ip-address"}
    assert set(re.findall(r"--[\w-]+", start)) == wanted
    assert f"'{json.dumps({RESOURCE: 1})}'" in start
    assert f"--object-store-memory {own_ray.OBJECT_BYTES}" in start
    assert "RAY_memory_monitor_refresh_ms=0" in text
    seconds = own_ray.VARIABLES["RAY_gcs_rpc_server_reconnect_timeout_s"]
    assert f"RAY_gcs_rpc_server_reconnect_timeout_s={seconds}\n" in text


def test_the_heads_unit_has_the_variables_that_fleet_up_gives_ray() -> None:
    text = (FLEET / "moe-proxy-head.service").read_text()

    given = [f"{name}={value}" for name, value in own_ray.VARIABLES.items()]
    assert [each for each in given if each not in text] == []


@with_ray
@pytest.mark.filterwarnings("ignore")  # of Ray itself
def test_the_cluster_file_is_one_for_rays_launcher() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((FLEET / "ray-cluster.yaml").read_text())
    commands = config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]

    validate_config(prepare_config(config))
    for command in commands:
        assert f"--resources='{json.dumps({RESOURCE: 1})}'" in command
        assert "--dashboard-host=127.0.0.1" in command


@with_ray
@pytest.mark.filterwarnings("ignore")
def test_the_serve_config_is_of_our_application() -> None:
    from ray.serve.schema import ServeDeploySchema

    config = yaml.safe_load((FLEET / "serve.yaml").read_text())
    (application,) = ServeDeploySchema.model_validate(config).applications

    module, _, name = str(application.import_path).partition(":")
    assert hasattr(sys.modules.get(module) or __import__(module, fromlist=[name]), name)
    assert (application.name, application.external_scaler_enabled) == (APPLICATION, True)
    assert application.args == {"host": machine.FRONT_HOST, "port": machine.FRONT_PORT}
