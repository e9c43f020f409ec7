"""What the documentation names is there: modules, targets, commands, routes, links, policies."""

import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from proxy.cli.main import main
from tests.docs.pages import BLOCK, PAGES, README, ROOT, blocks

ARCHITECTURE = ROOT / "docs" / "architecture.md"
page = pytest.mark.parametrize("path", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])

INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
# Folders that are somebody's own, and places that packages come from: each reader has others.
SOMEBODYS = re.compile(r"(?<![\w.~-])/(?:root|home|Users|work|tmp)\b")
PACKAGE_INDEX = re.compile(r"\b(?:pypi|pythonhosted|npmjs|mirrors?|artifactory|nexus)\.\w")


def code(path: Path) -> str:
    """Everything on a page that is set as code, one piece a line."""
    text = path.read_text()
    pieces = [block.text for block in blocks(path)]
    return "\n".join(pieces + INLINE.findall(BLOCK.sub("", text)))


def command_lines(path: Path) -> Iterator[list[str]]:
    """The words after `moe-proxy` wherever it begins a line of code."""
    for line in code(path).splitlines():
        if re.match(r" *moe-proxy [a-z]", line):
            # Inline code may end in the middle of a command, but quotes it does close.
            yield shlex.split(line, comments=True)[1:]


def anchor(heading: str) -> str:
    """A heading's link target, as Markdown renderers make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def named_files(path: Path) -> list[str]:
    names = re.findall(r"(?<![\w-])(?:proxy|tests|bench)/[\w./]*\w/?", code(path))
    modules = re.findall(r"\bbench\.([a-z]\w*(?:\.[a-z]\w*)?)", code(path))
    return names + [f"bench/{name.replace('.', '/')}.py" for name in modules]


def named_targets(path: Path) -> list[str]:
    return re.findall(r"(?:^|[ (])make (?:\w+=\S+ )*([a-z]+)", code(path), re.MULTILINE)


def links(path: Path) -> list[str]:
    return LINK.findall(BLOCK.sub("", path.read_text()))


@pytest.mark.parametrize("find", [named_files, named_targets, command_lines, links])
def test_pages_have_what_is_looked_for_below(find: Callable[[Path], Iterable[object]]) -> None:
    """A page may have none of it, but not all of them."""
    assert len([one for path in PAGES for one in find(path)]) > 2


# --- what is named is there ---


def test_every_part_of_the_package_is_in_the_architecture() -> None:
    text = ARCHITECTURE.read_text()
    package = ROOT / "proxy"
    folders = [init.parent for init in package.rglob("__init__.py") if init.parent != package]
    files = [file for file in package.glob("*.py") if file.name != "__init__.py"]
    parts = [f"{folder.relative_to(ROOT)}/" for folder in folders]
    parts += [str(file.relative_to(ROOT)) for file in files]

    assert [part for part in sorted(parts) if f"`{part}`" not in text] == []


@page
def test_files_that_a_page_names_exist(path: Path) -> None:
    assert [name for name in named_files(path) if not (ROOT / name).exists()] == []


def test_modules_that_the_architecture_names_by_their_file_exist() -> None:
    names = re.findall(r"^(\w+\.(?:py|c))$", code(ARCHITECTURE), re.MULTILINE)

    assert names
    assert [name for name in names if not list((ROOT / "proxy").rglob(name))] == []


@page
def test_targets_exist(path: Path) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert [name for name in named_targets(path) if name not in targets] == []


@page
def test_commands_and_their_options_exist(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in command_lines(path):
        with pytest.raises(SystemExit) as end:
            main([*words[: 2 if words[0] == "fleet" else 1], "--help"])
        known = capsys.readouterr().out

        assert end.value.code == 0, words
        options = [w.partition("=")[0] for w in words if re.match(r"--?[a-z]", w)]
        assert [o for o in options if not re.search(rf"{o}\b", known)] == [], words


def test_readme_shows_the_commands_that_people_need() -> None:
    shown = {words[0] for words in command_lines(README)}

    assert {"serve", "check", "ps", "show", "set", "plan", "pull", "create"} <= shown


@page
def test_links_lead_somewhere(path: Path) -> None:
    broken = []
    for link in links(path):
        name, _, part = link.partition("#")
        target = path.parent / name if name else path
        if not target.exists():
            broken.append(link)
        elif part and part not in map(anchor, HEADING.findall(target.read_text())):
            broken.append(link)

    assert broken == []


# --- what is for everybody ---


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 200


@page
def test_nothing_is_only_so_on_one_machine(path: Path) -> None:
    text = path.read_text()

    assert SOMEBODYS.findall(text) == []
    assert PACKAGE_INDEX.findall(text) == []


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = [page.name for page in (ROOT / "docs").glob("*.md") if page.name != "README.md"]

    assert [name for name in sorted(pages) if f"]({name})" not in index] == []


@pytest.mark.parametrize(
    "client",
    [
        *("Claude Code", "Codex", "opencode", "Continue", "qwen-code", "Cline", "aider"),
        *("Open WebUI", "Ollama's command line", "llm", "LiteLLM", "LangChain", "LlamaIndex"),
        *("pydantic-ai", "instructor", "OpenAI's agents", "smolagents", "dspy", "crewai"),
        *("outlines", "guidance", "haystack", "autogen", "OpenAI's SDKs", "Anthropic's SDKs"),
        *("Vercel's AI SDK", "promptfoo", "guidellm", "lm-eval"),
    ],
)
def test_each_client_has_its_words(client: str) -> None:
    page = (ROOT / "docs" / "clients.md").read_text()

    assert f"**{client}**" in page


def test_where_anthropics_clients_find_it_is_said_where_people_begin() -> None:
    for file in (README, ROOT / "docs" / "clients.md"):
        assert "ANTHROPIC_BASE_URL=http://127.0.0.1:11434" in file.read_text()
    assert "clients.md" in README.read_text()
