"""What is there for Prometheus and Grafana names what the proxy has."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.archive import REPOSITORY
from tests.support.policies import policies
from tests.support.proxy import proxy

FOLDER = REPOSITORY / "deploy" / "monitoring"
SUFFIXES = re.compile("_(total|bucket)$")


async def test_the_board_asks_for_what_there_is(tmp_path: Path) -> None:
    board = json.loads((FOLDER / "grafana.json").read_text())
    asked = {
        name
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"moe_proxy_\w+", target["expr"])
    }
    async with proxy(tmp_path, policies({})) as running:
        text = running.app.services.metrics.text().decode()
    there = set(re.findall("^# TYPE (moe_proxy_[^ ]+)", text, re.MULTILINE))

    # Host pressure is not told by every kernel.
    missing = {name for name in asked if not {name, SUFFIXES.sub("", name)} & there}
    assert missing <= {"moe_proxy_host_pressure"}


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="Prometheus' promtool is not installed"
)
def test_prometheus_takes_the_scrape_file() -> None:
    told = subprocess.run(
        ["promtool", "check", "config", FOLDER / "prometheus.yml"], capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr


async def test_the_page_has_every_metric(tmp_path: Path) -> None:
    async with proxy(tmp_path, policies({})) as running:
        text = running.app.services.metrics.text().decode()
    page = (REPOSITORY / "docs" / "metrics.md").read_text()

    families = re.findall("^# TYPE (moe_proxy_[^ ]+) ([a-z]+)", text, re.MULTILINE)
    assert families
    for name, kind in families:
        total = name if kind != "counter" or name.endswith("_total") else f"{name}_total"
        assert name.endswith("_created") or f"`{total}`" in page, name
