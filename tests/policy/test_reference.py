"""The table of keys, the typed values, the example file and the page all say the same."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.policy import reference
from proxy.policy.fields import FIELDS, fields_of
from proxy.policy.load import load
from proxy.policy.model import Catalog, DevicePolicy, Devices, EngineOptions, ModelPolicy, Server

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("table", "values", "more"),
    [
        ("server", Server, set()),
        ("catalog", Catalog, set()),
        ("devices", Devices, {"named", "others"}),
        ("devices.*", DevicePolicy, set()),
        ("engine", EngineOptions, set()),
        ("models.*", ModelPolicy, {"name", "written"}),
    ],
)
def test_each_key_has_its_attribute(table: str, values: type, more: set[str]) -> None:
    attributes = {field.name for field in dataclasses.fields(values)}

    assert {field.attribute for field in fields_of(table)} | more == attributes


def test_whatever_has_a_default_for_all_models_can_be_set_for_one() -> None:
    assert {field.path[-1] for field in fields_of("defaults")} <= {
        field.path[-1] for field in fields_of("models.*")
    }


def test_keys_are_unique_and_explained() -> None:
    assert len({field.key for field in FIELDS}) == len(FIELDS)
    assert all(field.help.endswith(".") for field in FIELDS)
    assert all(field.low <= field.high for field in FIELDS)


def test_default_toml_is_what_the_table_gives() -> None:
    file = ROOT / "policies" / "default.toml"

    assert file.read_text() == reference.toml(), "run python -m proxy.policy.reference toml"


def test_default_toml_changes_nothing(env: dict[str, str]) -> None:
    with_file, without = load(ROOT / "policies" / "default.toml", env), load(None, env)

    assert with_file.files
    assert with_file.problems == ()
    assert with_file.policies == without.policies


def test_every_line_of_default_toml_can_be_used(tmp_path: Path, env: dict[str, str]) -> None:
    text = re.sub(r"^#(?! )", "", reference.toml(), flags=re.MULTILINE)
    (tmp_path / "used.toml").write_text(text)

    loaded = load(tmp_path / "used.toml", env)

    assert loaded.problems == ()
    assert loaded.policies is not None
    assert loaded.policies.for_model("gpt-4o").name == "gpt-oss:120b"
    assert len(re.findall(r"^[a-z_]+ = ", text, re.MULTILINE)) == len(FIELDS) + 3  # of a node


def test_the_page_has_the_reference() -> None:
    page = (ROOT / "docs" / "policies.md").read_text()
    head, marker, rest = page.partition(reference.MARKER)

    assert marker + rest == reference.markdown(), "run python -m proxy.policy.reference markdown"
    for variable in {field.env for field in FIELDS if field.env}:
        assert f"`{variable}`" in head


@pytest.mark.parametrize("what", ["toml", "markdown", "html"])
def test_the_command(what: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "proxy.policy.reference", what],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    expected = {"toml": reference.toml, "markdown": reference.markdown}.get(what)
    assert done.stdout == (expected() if expected else "")
    assert ("usage" in done.stderr) == (expected is None)
