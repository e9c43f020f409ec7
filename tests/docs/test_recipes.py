"""The figures of the recipes are those of `moe-proxy plan`, for models as large as real ones."""

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from proxy.cli.main import main
from proxy.cli.output import FAILED, OK
from proxy.policy.fields import FIELDS
from proxy.policy.load import load
from tests.docs.pages import ROOT, Block, blocks, of_kind
from tests.docs.real_models import REAL
from tests.support.policies import toml

RECIPES = ROOT / "docs" / "recipes.md"
CARDS = re.compile(r"^\| `(\S+)` \| (\S+) \| (\d+) GB \| (.+) \|$", re.MULTILINE)
OPTIONS = re.compile(r"^\| `(--ctx .*)` \| (\d+) \|$", re.MULTILINE)
# What stands before: tables of other kinds.
THEIRS = re.compile(r"\A.*?^## From Ollama$", re.DOTALL | re.MULTILINE)
COMMANDS = {"stop", "ps", "list"}  # after `moe-proxy load`
SIZES_GIB = (8, 12, 16, 24)
Plan = Callable[..., str]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: real.write(folder / f"{i}.gguf") for i, (name, real) in enumerate(REAL.items())}


@pytest.fixture
def plan(models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Plan:
    """What `plan` prints under a policy of the page."""

    def ask(policy: str, *words: str) -> str:
        named = tomllib.loads(policy).get("models", {})
        (tmp_path / "policies").mkdir(exist_ok=True)
        (tmp_path / "policies" / "recipe.toml").write_text(policy)
        paths = {"models": {name: {"path": models[name]} for name in named}}
        (tmp_path / "policies" / "paths.toml").write_text(toml(paths))
        assert main(["plan", *words, "--policies", str(tmp_path / "policies")]) in (OK, FAILED)
        return capsys.readouterr().out

    return ask


def the_policy(block: Block | None = None) -> str:
    """The policy that stands last before a block; without one, the first of the page."""
    found = [b for b in blocks(RECIPES) if b.kind == "toml" and (not block or b.line < block.line)]
    return found[-1 if block else 0].text


def shown() -> Iterator[tuple[Block, Block]]:
    """Each command with the output that is shown below it."""
    for page in sorted({block.page for block in of_kind("output")}):
        for before, block in pairwise(blocks(page)):
            if block.kind == "output":
                yield before, block


def test_models_are_as_large_as_real_ones(models: dict[str, Path]) -> None:
    for name, real in REAL.items():
        assert models[name].stat().st_size / 1e9 == pytest.approx(real.file_gb, rel=0.04), name


def test_the_table_of_cards(plan: Plan) -> None:
    rows = CARDS.findall(RECIPES.read_text())
    aliases = {m["aliases"][0]: name for name, m in tomllib.loads(the_policy())["models"].items()}

    assert {name for name, *_ in rows} == aliases.keys()
    for name, _, file_gb, cells in rows:
        assert float(file_gb) == pytest.approx(REAL[aliases[name]].file_gb, rel=0.05)
        found = []
        for size in SIZES_GIB:
            told = json.loads(plan(the_policy(), name, "--vram", f"{size}GiB", "--json"))
            layers = REAL[aliases[name]].sizes.layers
            fits = f"{told['moe_cpu_layers']} of {layers}, {told['host_bytes'] / 2**30:.1f} GiB"
            too_large = any("even with all experts" in text for text in told["problems"])
            found.append("no room" if too_large else fits)
        assert cells == " | ".join(found), name


def test_the_table_of_contexts(plan: Plan) -> None:
    rows = OPTIONS.findall(RECIPES.read_text())

    assert rows
    for options, layers in rows:
        words = ("qwen3:30b", "--vram", "12GiB", "--json", *options.split())
        assert json.loads(plan(the_policy(), *words))["moe_cpu_layers"] == int(layers), options


@pytest.mark.parametrize(("command", "output"), list(shown()), ids=lambda block: str(block))
def test_what_is_shown_is_said(command: Block, output: Block, plan: Plan) -> None:
    """Lines and blanks may be left out, but what is there is the command's, in its order."""
    assert command.text.startswith("moe-proxy plan "), "no other command is shown with its output"

    said = [line.split() for line in plan(the_policy(command), *words_of(command)).splitlines()]

    for line in output.text.splitlines():
        assert line.split() in said, "\n".join(map(" ".join, said))
        del said[: said.index(line.split()) + 1]


def words_of(command: Block) -> list[str]:
    return command.text.split()[2:]


def test_what_others_call_something_is_ours_by_a_key_that_there_is(tmp_path: Path) -> None:
    """In the tables for who comes from elsewhere: their word on the left, ours on the right."""
    rows = re.findall(r"^\| .+? \| (.*) \|$", THEIRS.sub("", RECIPES.read_text()), re.MULTILINE)
    ours = [piece for cell in rows for piece in re.findall(r"`([^`]+)`", cell)]
    keys = {field.key.removeprefix("models.*.").removeprefix("devices.*.") for field in FIELDS}
    lines = [piece.replace("= N", "= 3") for piece in ours if " = " in piece]
    policy = tmp_path / "policies.toml"

    named = {piece for piece in ours if re.fullmatch(r"[a-z_.]+", piece)}
    assert len(named) > 10
    assert named - keys - COMMANDS == set()
    for line in lines:
        policy.write_text(f'[models.x]\ncommand = ["program", "{{port}}"]\n{line}\n')
        assert load(policy, {}).problems == (), line
