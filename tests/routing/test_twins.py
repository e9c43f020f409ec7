"""When another name of a file is the same model."""

from dataclasses import replace
from pathlib import Path

import pytest

from proxy.catalog.entry import Entry
from proxy.policy.load import load
from proxy.policy.model import ModelPolicy
from proxy.routing.twins import can_share, shared_policy

FILE = Path("/m.gguf")
BASE = Entry("base", FILE, (FILE,), 1, 0.0, inodes=((1, 2),))
OWN = replace(BASE, name="own", source="own", system="x", params={"temperature": 0.5})


def policy(text: str = "") -> ModelPolicy:
    loaded = load(None, {"MOE_PROXY_POLICIES": "", "HOME": "/nowhere"})
    assert loaded.policies is not None
    return replace(loaded.policies.defaults, name=text)


@pytest.mark.parametrize(
    ("entry", "change", "shares"),
    [
        (OWN, {}, True),
        (OWN, {"ctx": 99, "moe_cpu_layers": 3, "keep_alive_s": 1.0, "params": {"seed": 1}}, True),
        (replace(OWN, template="{{ .Prompt }}"), {}, True),  # which nobody loads
        (replace(OWN, template="{% x %}", template_file=Path("t")), {}, False),
        (replace(OWN, source="policy"), {}, False),
        (OWN, {"args": ("--jinja",)}, False),
        (OWN, {"parallel": 9}, False),
        (OWN, {"rpc": ("127.0.0.1:1",)}, False),
        (OWN, {"mode": "embedding"}, False),
        (OWN, {"engine": "command"}, False),
        (OWN, {"split": "separate"}, False),
        (OWN, {"confine": False}, False),
        (OWN, {"repack": "off"}, False),
        (OWN, {"dense_cpu_layers": 2}, False),
    ],
)
def test_who_shares(entry: Entry, change: dict[str, object], shares: bool) -> None:
    base = policy()

    assert can_share(entry, replace(base, **change), BASE, base) is shares  # type: ignore[arg-type]


def test_a_split_that_nobody_asked_for_moves_nothing() -> None:
    own, base = policy(), replace(policy(), moe_cpu_layers=24)

    assert shared_policy(own, base, OWN).moe_cpu_layers == 24
    written = replace(own, written=frozenset({"moe_cpu_layers"}))
    assert shared_policy(written, base, OWN).moe_cpu_layers == own.moe_cpu_layers
    said = replace(OWN, params={"moe_cpu_layers": 3})
    assert shared_policy(replace(own, moe_cpu_layers=3), base, said).moe_cpu_layers == 3
