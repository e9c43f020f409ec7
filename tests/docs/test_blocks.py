"""Every block of code on the pages is run, loaded or parsed, or stands in `not_run` with a
reason."""

import configparser
import json
import re
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import yaml

from proxy.api.key_file import parse_keys
from proxy.policy.load import load
from proxy.policy.warnings import warnings_of
from tests.docs import not_run
from tests.docs.not_run import why_not
from tests.docs.pages import PAGES, Block, blocks, commands, of_kind
from tests.docs.reader import ENDLESS, Reader, reading
from tests.support.llama import rpc_server

KINDS = {"sh", "python", "modelfile", "toml", "json", "yaml", "ini", "keys", "output"}
SHOWN = {"text", "mermaid"}
NOT_HERE = re.compile("no such file or directory: |there is no program ")
# What a policy file may have; another TOML file is a client's own.
TABLES = {"server", "catalog", "devices", "engine", "defaults", "models"}


def each(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", of_kind(*kinds), ids=str)


def to_run(block: Block) -> list[str]:
    return [line for line in commands(block.text) if why_not(line, not_run.COMMANDS) is None]


# --- that none is left out ---


def test_every_block_says_what_it_is() -> None:
    assert [str(b) for page in PAGES for b in blocks(page) if b.kind not in KINDS | SHOWN] == []


def test_what_is_only_shown_is_on_the_list() -> None:
    shown = of_kind(*SHOWN)

    assert [str(block) for block in shown if not why_not(block.first, not_run.BLOCKS)] == []


def test_what_is_not_run_is_still_there() -> None:
    lines = [line for block in of_kind("sh") for line in commands(block.text)]
    firsts = [block.first for block in of_kind(*SHOWN)]

    assert {why_not(line, not_run.COMMANDS) for line in lines} - {None} == {*not_run.COMMANDS}
    assert {why_not(first, not_run.BLOCKS) for first in firsts} - {None} == {*not_run.BLOCKS}


@pytest.mark.parametrize(
    "command",
    [
        "useradd x",
        "moe-proxy ps; sudo rm x",
        "A=1 curl x | sh",
        "moe-proxy ps > /etc/x",
        "mkdir -p ~/x /etc/x",
        'make "$(rm x)"',
    ],
)
def test_what_is_not_ours_is_refused(command: str, tmp_path: Path) -> None:
    """Whatever comes onto a page: a mistake there must not change this machine."""
    with pytest.raises(AssertionError, match="not to be run"):
        Reader(tmp_path, "http://127.0.0.1:1").run(command)


# --- what is read ---


@each("toml")
def test_policies_are_good(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "policies.toml"
    file.write_text(block.text)
    if not tomllib.loads(block.text).keys() <= TABLES:
        return  # that it is TOML is all that can be said of a client's file

    env = {"HOME": str(tmp_path), "HF_TOKEN": "a reader's"}
    loaded = load(file, env)

    assert loaded.problems == ()
    # The files of other machines are not here.
    warnings = [str(one) for one in warnings_of(loaded, env)]
    assert [text for text in warnings if not NOT_HERE.search(text)] == []


@each("json", "yaml")
def test_data_can_be_read(block: Block) -> None:
    assert (json.loads if block.kind == "json" else yaml.safe_load)(block.text)


@each("ini")
def test_parts_of_units_can_be_read(block: Block) -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(block.text)

    assert {*parser.sections()} <= {"Service", "Socket", "Unit"}
    assert all(key[0].isupper() for section in parser.values() for key in section)


@each("keys")
def test_keys_are_keys(block: Block) -> None:
    keys, problems = parse_keys(block.text.encode())

    assert keys
    assert problems == ()


# --- what is run ---


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reader(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Reader]:
    async with rpc_server() as rpc:
        with reading(tmp_path_factory.mktemp("reader"), rpc) as made:
            yield made


@pytest.mark.llama
@each("sh", "python", "modelfile")
def test_what_is_shown_can_be_done(block: Block, reader: Reader) -> None:
    """In the order of the pages: what a block leaves, the next ones of its page find."""
    if block.kind == "python":
        reader.python(block.text)
    elif block.kind == "modelfile":
        reader.save("Modelfile", block.text)
    else:
        for command in to_run(block):
            if ENDLESS.match(command):
                assert reader.follow(command), command
            else:
                reader.run(command)


@pytest.mark.llama
@each("modelfile")
def test_modelfiles_make_models(block: Block, reader: Reader) -> None:
    reader.save("Modelfile", block.text)

    reader.run("moe-proxy create made-of-it -f Modelfile")

    assert "made-of-it" in reader.run("moe-proxy list")
