"""The command `plan`, as it is called."""

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.cli import FAILED, MISUSED, OK, main
from proxy.plan import parse_vram
from tests.support.models import model

POLICIES = """
[devices]
reserve = "1MiB"
low = "1MiB"
[devices.CUDA1]
attention = false
[defaults]
ctx = 2048
parallel = 2
[models."tiny"]
path = "{path}"
"""


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    file = tmp_path / "policies.toml"
    file.write_text(POLICIES.format(path=model("qwen3moe")))
    return file


def ask(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert main(["plan", "--json", *argv]) == OK
    return json.loads(capsys.readouterr().out)


def test_json_keeps_the_contract(policies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = ask(capsys, "tiny", "--vram", "36MiB", "--policies", str(policies))

    assert found["model"] == "tiny"
    assert 0 < found["moe_cpu_layers"] <= 12
    (device,) = found["devices"]
    assert set(device) == {"name", "weights_bytes", "kv_bytes", "compute_bytes", "experts_bytes"}
    assert device["kv_bytes"] == 12 * 2048 * 2 * 2 * (2 * 32) * 2
    assert sum(value for value in device.values() if isinstance(value, int)) <= 35 << 20
    args = found["args"]
    assert args[args.index("--n-cpu-moe") + 1] == str(found["moe_cpu_layers"])
    assert args[args.index("--ctx-size") + 1] == "4096"


def test_a_file_and_a_split_asked_for(policies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = (str(model("mixtral")), "--vram", "1GiB", "--ctx", "512", "--parallel", "1")

    found = ask(capsys, *argv, "--moe-cpu-layers", "full", "--policies", str(policies))

    assert found["moe_cpu_layers"] == 12
    assert found["devices"][0]["experts_bytes"] == 0


def test_devices_keep_to_their_policies(policies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ("--vram", "CUDA0=36MiB,CUDA1=16MiB", "--policies", str(policies))

    first, second = ask(capsys, "tiny", *argv, "--tune", "generation")["devices"]

    assert (first["name"], second["name"]) == ("CUDA0", "CUDA1")
    assert second["weights_bytes"] == second["kv_bytes"] == 0
    assert second["experts_bytes"] > 0


def test_a_table_for_people(policies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["plan", "tiny", "--vram", "RPC0=1GiB", "--policies", str(policies)]

    assert main(argv) == OK

    text = capsys.readouterr().out
    assert "tiny: 12 layers, 12 with experts" in text
    assert "RPC0" in text
    assert "moe_cpu_layers 0" in text
    assert "llama-server --model" in text


def test_what_cannot_fit_fails_and_says_why(
    policies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "tiny", "--vram", "3MiB", "--policies", str(policies)]) == FAILED

    assert "even with all experts on the CPU" in capsys.readouterr().out


def test_mistakes_are_told(
    policies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def status(*argv: str) -> int:
        return main(["plan", *argv, "--policies", str(policies)])

    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"nothing")
    assert status("tinny", "--vram", "1GiB") == FAILED
    assert "did you mean tiny?" in capsys.readouterr().err
    assert status(str(broken), "--vram", "1GiB") == MISUSED
    assert status("tiny", "--vram", "1GiB", "--kv", "q9") == MISUSED
    assert "q8_0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        status("tiny", "--vram", "much")


def test_sizes_of_devices() -> None:
    assert parse_vram("12GiB") == {"GPU": 12 << 30}
    assert parse_vram("CUDA0=1GiB, RPC0=512MiB") == {"CUDA0": 1 << 30, "RPC0": 512 << 20}
    with pytest.raises(ValueError, match="twice"):
        parse_vram("1GiB,2GiB")
