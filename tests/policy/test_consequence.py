"""What an edit comes to for a backend that runs."""

from pathlib import Path

import pytest

from proxy.policy.consequence import Consequence, consequence
from proxy.policy.diff import diff
from proxy.policy.load import parse
from proxy.policy.model import Policies
from proxy.policy.sources import Sources

STAYS = Consequence((), anew=False, splits=False, moves=False)


def policies(text: str) -> Policies:
    loaded = parse(Sources(((Path("/p.toml"), text.encode()),)), {"HOME": "/home"})
    assert loaded.policies is not None
    return loaded.policies


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        ("", STAYS),
        ("models.a.params = {seed = 1}", STAYS),
        ("models.b.ctx = 9", STAYS),
        ("models.a.moe_cpu_layers = 3", Consequence((), anew=False, splits=True, moves=True)),
        ("defaults.moe_cpu_layers = 3", Consequence((), anew=False, splits=True, moves=True)),
        ("devices.reserve = '3GiB'", Consequence((), anew=False, splits=False, moves=True)),
        ("models.a.ctx = 99", Consequence(("ctx",), anew=True, splits=False, moves=False)),
        (
            "models.a.dense_cpu_layers = 3",
            Consequence((), anew=True, splits=False, moves=False),
        ),
        (
            "engine.threads = 3",
            Consequence(("engine.threads",), anew=True, splits=False, moves=False),
        ),
        (
            "devices.X.attention = false",
            Consequence(("devices.X.attention",), anew=True, splits=False, moves=True),
        ),
    ],
)
def test_one_whose_experts_move(edit: str, found: Consequence) -> None:
    changes = diff(policies(""), policies(edit))

    assert consequence(changes, "a", dense=False, by_replacing=False) == found


def test_one_whose_experts_cannot_move_is_loaded_anew_for_another_split() -> None:
    changes = diff(policies(""), policies("models.a.moe_cpu_layers = 3"))

    assert consequence(changes, "a", dense=False, by_replacing=True) == Consequence(
        ("moe_cpu_layers",), anew=True, splits=True, moves=True
    )
