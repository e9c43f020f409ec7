"""Which model a name means."""

import shutil
from pathlib import Path

import pytest

from proxy.errors import ModelNotFound
from tests.support.routing import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_policy_under_another_name_of_the_file(folder: Folder) -> None:
    """Whatever spelling a request uses, it is the same model under the policy's name."""
    for name in ("folded", "Folded-Q8_0", "folded:q8_0", "FOLDED:latest"):
        model = folder.resolver.resolve(name)
        assert (model.name, model.policy.ctx) == ("folded", 2048)
        assert model.path.name == "Folded-Q8_0.gguf"


def test_another_spelling_of_a_policys_name(folder: Folder) -> None:
    assert folder.resolver.resolve("Tiny:latest").policy.args == ("--jinja",)


@pytest.mark.parametrize("name", ["GPT-4o", "gpt-4o:latest", "VARIANT", "variant:latest"])
def test_case_and_latest_make_no_difference_to_aliases_and_variants(
    folder: Folder, name: str
) -> None:
    known = name.lower().removesuffix(":latest")

    assert folder.resolver.resolve(name).name == folder.resolver.resolve(known).name


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("claude-sonnet-4-5-20250929", "tiny"),
        ("CLAUDE-sonnet:latest", "tiny"),
        ("claude-", "tiny"),
        ("claude-opus-4-1", "apart"),
        ("claude-haiku-4", "apart"),
        ("claude-\nsonnet", "tiny"),
        ("claude-*", "tiny"),
        ("gpt-4o", "tiny"),
    ],
)
def test_an_alias_with_a_star_is_every_such_name(folder: Folder, name: str, known: str) -> None:
    """The longest one that fits wins, by what it says of the name."""
    assert folder.resolver.resolve(name).name == known


def test_an_exact_name_wins_over_any_pattern(folder: Folder, tmp_path: Path) -> None:
    """Of a policy, or of a file that comes into a folder."""
    shutil.copyfile(tmp_path / "tiny.gguf", tmp_path / "more/claude-opus-mine.gguf")
    folder.catalog.refresh()

    assert folder.resolver.resolve("Claude-Opus-Mine").name == "claude-opus-mine"
    assert folder.resolver.resolve("claude-opus-mine:latest").name == "claude-opus-mine"


@pytest.mark.parametrize("name", ["claude", "myclaude-x", "haiku-3", "", "gpt-4o-mini"])
def test_a_pattern_is_no_beginning_of_a_name(folder: Folder, name: str) -> None:
    with pytest.raises(ModelNotFound) as error:
        folder.resolver.resolve(name)
    assert "*" not in error.value.message.partition("did you mean")[2]


def test_what_holds_for_one_that_is_loaded_while_its_file_is_gone(folder: Folder) -> None:
    resolver = folder.resolver
    assert resolver.policy_for("tiny").args == ("--jinja",)

    assert resolver.policy_for("gone").name == "gone"


def test_a_policy_without_a_file(folder: Folder) -> None:
    with pytest.raises(ModelNotFound, match="'ghost' has a policy, but no file"):
        folder.resolver.resolve("ghost")


def test_a_command_that_knows_its_model_itself(folder: Folder) -> None:
    assert folder.resolver.resolve("elsewhere").path == Path("elsewhere")


def test_whether_a_name_is_known_is_cheap_to_ask(folder: Folder) -> None:
    known = ("tiny", "Tiny:latest", "gpt-4o", "Folded-Q8_0", "folded:q8_0", "ghost")

    assert [name for name in (*known, "tinny", "tiny?", "") if folder.resolver.knows(name)] == [
        *known
    ]


@pytest.mark.parametrize(
    ("name", "near"),
    [("tinny", "tiny"), ("gpt-4", "gpt-4o"), ("foldet", "folded")],
)
def test_names_that_come_close(folder: Folder, name: str, near: str) -> None:
    with pytest.raises(ModelNotFound, match=f"'{name}' not found; did you mean .*{near}") as e:
        folder.resolver.resolve(name)
    assert e.value.param == "model"


def test_nothing_comes_close(folder: Folder) -> None:
    with pytest.raises(ModelNotFound, match=r"x\.\.\.' not found$"):
        folder.resolver.resolve("x" * 5000)


def test_however_many_names_were_asked_for_the_next_one_is_remembered(folder: Folder) -> None:
    """Clients choose how they spell a name: whoever has many spellings pushes out old ones only."""
    for number in range(5000):
        spelling = "".join(
            letter.upper() if number >> bit & 1 else letter
            for bit, letter in enumerate("folded-q8_0:latest")
        )
        assert folder.resolver.resolve(spelling).name == "folded"

    model = folder.resolver.resolve("Folded-Q8_0")
    assert folder.resolver.resolve("Folded-Q8_0") is model
