"""NVIDIA's driver, where there is one and where there is none."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.nvml import StandInCard, StandInNvml

LOOK = """
import sys
from proxy.memory.nvidia import Nvidia
from proxy.memory.readings import Unreadable
try:
    print(*(card.id for card in Nvidia().cards()))
except Unreadable as error:
    print(error)
print("pynvml" in sys.modules)
"""


def look(**env: str) -> list[str]:
    command = [sys.executable, "-c", LOOK]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | env)
    return done.stdout.splitlines()


def test_without_a_driver_its_binding_is_not_loaded() -> None:
    """Where this machine has a driver, what is found are its own cards."""
    (found, loaded) = look()

    assert loaded == str("Not Found" not in found)


def test_where_there_is_a_driver_its_cards_are_found(tmp_path: Path) -> None:
    driver = StandInNvml(tmp_path, StandInCard(), StandInCard())

    assert look(**driver.env()) == ["GPU-0 GPU-1", "True"]
