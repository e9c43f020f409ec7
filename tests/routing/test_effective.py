from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from proxy.catalog.entry import Entry
from proxy.policy.load import load
from proxy.routing.effective import effective_policy


@pytest.mark.parametrize(
    ("model", "params", "ctx", "split"),
    [
        ("plain", {}, 4096, "auto"),
        ("plain", {"num_ctx": 512, "moe_cpu_layers": 3}, 512, 3),
        ("plain", {"num_ctx": -1, "moe_cpu_layers": "many"}, 4096, "auto"),
        ("plain", {"num_ctx": 0}, 4096, "auto"),
        ("plain", {"num_ctx": "512", "moe_cpu_layers": "full"}, 4096, -1),
        ("set", {"num_ctx": 512, "moe_cpu_layers": 3}, 4096, 7),
    ],
)
def test_a_models_table_beats_its_manifest_which_beats_the_defaults(
    model: str, params: dict[str, Any], ctx: int, split: int | str, tmp_path: Path
) -> None:
    file = tmp_path / "p.toml"
    file.write_text("[defaults]\nctx = 4096\n[models.set]\nctx = 4096\nmoe_cpu_layers = 7\n")
    policies = load(file, {"HOME": str(tmp_path)}).policies
    assert policies is not None
    entry = Entry(model, file, (file,), 0, 0.0, params=MappingProxyType(params))

    found = effective_policy(policies.for_model(model), entry)

    assert (found.ctx, found.moe_cpu_layers) == (ctx, split)


def test_a_model_without_a_file_has_its_policy(tmp_path: Path) -> None:
    policies = load(None, {"HOME": str(tmp_path)}).policies
    assert policies is not None

    assert effective_policy(policies.defaults, None) == policies.defaults
