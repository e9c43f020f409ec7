"""What a hosted llama-server is not told, and that of each of its options it was decided."""

import re
import subprocess
from pathlib import Path

import pytest

from proxy.engine.llama_args import (
    config_files,
    refused_args,
    refused_config,
    unsafe_args,
)
from proxy.engine.llama_options import HARMLESS, REFUSED, UNSAFE
from tests.support.llama import program

# As other builds call them; in this one they are not known, or have no variable.
OTHER_BUILDS = {"--no-mmap", "--mlock", "-dio", "--direct-io", "LLAMA_ARG_SLEEP_IDLE_SECONDS"}
OTHER_BUILDS |= {"LLAMA_ARG_WARMUP", "LLAMA_ARG_NO_WARMUP"}
OTHER_BUILDS |= {"--moe-cache-mib", "--moe-cache-cpu-share"}
OTHER_BUILDS |= {"LLAMA_ARG_MOE_CACHE_MIB", "LLAMA_ARG_MOE_CACHE_CPU_SHARE"}


def why(*args: str) -> list[str]:
    return [f"{index} {message}" for index, message in refused_args(args)]


# --- the table, against the llama-server that is installed ---


@pytest.fixture(scope="module")
def help_text() -> str:
    said = subprocess.run([program("llama-server"), "--help"], capture_output=True, check=True)
    return said.stdout.decode()


def spellings(text: str) -> set[str]:
    """Every name of every option: those with which its entry begins."""
    heads = [line for line in text.splitlines() if re.match(r"--?[a-zA-Z]", line)]
    found = [re.match(r"(?:--?[A-Za-z][\w.-]*(?:,? +|$))+", head) for head in heads]
    return {name for match in found if match for name in re.findall(r"-[^\s,]+", match[0])}


@pytest.mark.llama
def test_of_every_option_it_was_decided(help_text: str) -> None:
    """An update of llama.cpp that has new ones fails here."""
    refused = {name for row in REFUSED for name in row.names}
    unsafe = {name for row in UNSAFE for name in row.names}
    known = spellings(help_text)

    assert known - refused - unsafe - HARMLESS == set()
    assert (HARMLESS | unsafe) - known == set()
    assert refused - known - OTHER_BUILDS == set()
    assert refused & unsafe == refused & HARMLESS == unsafe & HARMLESS == set()


@pytest.mark.llama
def test_variables_are_the_ones_that_it_reads(help_text: str) -> None:
    known = set(re.findall(r"\(env: (\w+)\)", help_text))
    known |= {name.replace("LLAMA_ARG_", "LLAMA_ARG_NO_") for name in known}
    ours = {name for row in REFUSED for name in (*row.variables, *row.switches)}
    ours |= {name for row in UNSAFE for name in row.variables}

    assert ours - known - OTHER_BUILDS == set()


# --- args ---


@pytest.mark.parametrize(
    ("written", "option"),
    [
        ("-c", "-c"),
        ("--ctx-size", "--ctx-size"),
        ("--ctx_size", "--ctx-size"),
        ("--ctx-size=4096", "--ctx-size"),
        ("--ctx_size 4096", "--ctx-size"),
        (" -c", "-c"),
        ("-c=4096", "-c"),
    ],
)
def test_each_spelling_is_refused_with_what_to_use_instead(written: str, option: str) -> None:
    assert why("--jinja", written, "4096") == [
        f"1 {option} is not for hosted models: a request's backend is chosen by it; use ctx"
    ]


def test_each_of_several_is_told() -> None:
    assert why("--no-slots", "--sleep-idle-seconds", "60") == [
        "0 --no-slots is not for hosted models: the proxy reads there how far answers are; use "
        'engine = "command" where it is needed',
        "1 --sleep-idle-seconds is not for hosted models: it frees the model under experts that "
        "move; use keep_alive",
    ]


def test_what_changes_nothing_may_stand() -> None:
    assert why("--fit", "off", "--load-mode", "mmap+mlock", "--sleep-idle-seconds", "-1") == []
    assert why("--log-verbosity", "4", "--warmup", "--slots", "--no-repack") == []
    assert why("--device", "CUDA0", "-ts", "3,1", "--pooling", "mean", "") == []
    assert why("-ngl", "99", "--n-gpu-layers", "999", "--gpu-layers", "all") == []
    assert len(why("--fit", "on", "--load-mode", "none", "-lv", "1")) == 3


@pytest.mark.parametrize(
    ("written", "apart"),
    [
        ("--threads 4", '"--threads", "4"'),
        ("-t=4", '"-t", "4"'),
        ("--n-gpu-layers=999", '"--n-gpu-layers", "999"'),
        ("--grammar root ::= x", '"--grammar", "root ::= x"'),
        ("--jinja ", '"--jinja"'),
        (" --jinja", '"--jinja"'),
        ("--of-a-later-version=4", '"--of-a-later-version", "4"'),
    ],
)
def test_an_option_and_its_value_in_one_string(written: str, apart: str) -> None:
    assert why("-s", "1", written) == [
        f"2 llama-server does not know it written like that; write {apart}"
    ]


@pytest.mark.llama
@pytest.mark.parametrize("written", ["--threads 4", "--threads=4", "-t=4", "--jinja ", " --jinja"])
def test_llama_server_knows_no_such_option(written: str) -> None:
    command = [program("llama-server"), written, "--version"]
    said = subprocess.run(command, capture_output=True, check=False)
    assert said.returncode == 1
    assert f"invalid argument: {written}\n".encode() in said.stdout + said.stderr


def test_texts_that_begin_like_options() -> None:
    assert (
        why("-r", "-User says", "-r", "-- the end", "--override-kv", "a=int:1", "-", "-.5 x") == []
    )


# --- what a policy has to allow ---


def unsafe(*args: str) -> list[str]:
    return [f"{index} {message}" for index, message in unsafe_args(args)]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--tools", "all"), "0 --tools: whoever reaches the model runs programs"),
        (("--jinja", "--log_file=x"), "1 --log-file: it has files written"),
        (("--slot-save-path", "/x"), "0 --slot-save-path: whoever reaches the model has files"),
        (("--log-file x",), "0 --log-file: it has files written"),
        (("--props",), "0 --props: whoever reaches the model changes it for all"),
        (("-hfd", "a/b"), "0 -hfd: it has files fetched"),
        # Of a version that nobody has looked at yet.
        (("-t", "1", "--shell-for-all"), "2 --shell-for-all: nobody knows here what it does"),
        # Where llama-server may take it for a value, we do not know how many it takes.
        (("--grammar", "--tools"), "1 --tools: whoever reaches the model runs programs"),
    ],
)
def test_each_spelling_has_to_be_allowed(args: tuple[str, ...], told: str) -> None:
    (said,) = unsafe(*args)
    assert said.startswith(told)


def test_the_rest_is_taken() -> None:
    assert unsafe("--jinja", "--temp", "-1", "-ts", "3,1", "--no-agent", "--no-ui-mcp-proxy") == []
    assert unsafe("--chat-template-kwargs", '{"a": "--b"}', "-r", "-- the end", "-", "-.5") == []
    assert unsafe("--lora", "a.gguf", "--grammar-file", "g", "--chat-template-file", "t") == []
    # Refused whatever is allowed, and told once.
    assert unsafe("--host", "0.0.0.0", "--api-key", "x") == []


# --- config files ---


def test_keys_of_a_config_file() -> None:
    text = """
; for every llama-server
sleep-idle-seconds = 60 ; a minute
ctx-size = 4096
threads = 4
no-slots = off
[some-model]
api-key = not-for-us
[*]
slots = 0
api-prefix=/llama
LLAMA_ARG_ALIAS = x
tools = all
agent = off
LLAMA_ARG_LOG_FILE = /x
hf-token = mine
log-disable = 1
moe-cache-mib = 4096
n-gpu-layers = 3 ; our command line overrules it
"""
    assert [key for key, _ in refused_config(text)] == [
        *("sleep-idle-seconds", "slots", "api-prefix", "LLAMA_ARG_ALIAS"),
        *("tools", "LLAMA_ARG_LOG_FILE", "log-disable", "moe-cache-mib"),
    ]


def test_where_config_files_are() -> None:
    system = Path("/etc/llama.cpp/config.ini")
    assert config_files({}) == (system,)
    assert config_files({"HOME": "/h"}) == (system, Path("/h/.config/llama.cpp/config.ini"))
    assert config_files({"HOME": "/h", "XDG_CONFIG_HOME": "/c"}) == (
        system,
        Path("/c/llama.cpp/config.ini"),
    )
