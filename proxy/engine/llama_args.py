"""Which of llama-server's options a hosted worker cannot have, why, and what to use instead. Pure.

llama-server takes options from three places, later ones counting more: its config files, the
environment, and its command line, where a policy's `args` come last. So `args` are refused whatever
we say ourselves, but variables and config files only where our own command line does not overrule
them: a port for another llama-server is no harm.

Everything that is not in the table is taken: a list of all there is, and what was decided of each,
is in tests/engine/test_llama_args.py. A value that looks like a refused option is taken for one.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ON: Final = frozenset(("on", "enabled", "true", "1"))
OFF: Final = frozenset(("off", "disabled", "false", "0"))
NEVER: Final = frozenset[str]()


@dataclass(frozen=True, slots=True)
class Refused:
    """One thing that llama-server must not be told.

    `variables` of the environment say the same, `switches` say it by being off; with neither, our
    own command line overrules the environment and config files. With one of the `harmless` values
    it may stand.
    """

    names: tuple[str, ...]
    why: str
    instead: str = ""
    variables: tuple[str, ...] = ()
    switches: tuple[str, ...] = ()
    harmless: frozenset[str] = NEVER


SOCKET: Final = "the proxy reaches a worker on a socket of its own, in its own way"
FOREIGN: Final = (
    "it would load another model than the one that was asked for, or overwrite its file"
)
CHOSEN: Final = "a request's backend is chosen by it"
PLANNED: Final = "it would change without a word what the proxy has planned"

# fmt: off
REFUSED: Final = (
    # Where it listens, and what it answers there.
    Refused(("--host", "--port", "--reuse-port"), SOCKET, "server.host and server.port"),
    Refused(("--api-key", "--api-key-file"), SOCKET, "server.api_keys_file",
            ("LLAMA_API_KEY", "LLAMA_ARG_API_KEY_FILE")),
    Refused(("--ssl-key-file", "--ssl-cert-file"), SOCKET, "a reverse proxy in front",
            ("LLAMA_ARG_SSL_KEY_FILE", "LLAMA_ARG_SSL_CERT_FILE")),
    Refused(("--api-prefix",), SOCKET, "", ("LLAMA_ARG_API_PREFIX",)),
    Refused(("--path",), "files could answer what the proxy asks of llama-server", "",
            ("LLAMA_ARG_STATIC_PATH",)),
    Refused(("--no-slots",), "the proxy reads there how far answers are", "",
            ("LLAMA_ARG_NO_ENDPOINT_SLOTS",), ("LLAMA_ARG_ENDPOINT_SLOTS",)),
    # Which model it is, and how it is called.
    Refused(("-m", "--model"), FOREIGN, "path"),
    Refused(("-mu", "--model-url", "-dr", "--docker-repo", "-hf", "-hfr", "--hf-repo", "-hff",
             "--hf-file"), FOREIGN, "path, after `moe-proxy pull`",
            ("LLAMA_ARG_MODEL_URL", "LLAMA_ARG_DOCKER_REPO", "LLAMA_ARG_HF_REPO")),
    Refused(("--embd-gemma-default", "--fim-qwen-1.5b-default", "--fim-qwen-3b-default",
             "--fim-qwen-7b-default", "--fim-qwen-7b-spec", "--fim-qwen-14b-spec",
             "--fim-qwen-30b-default", "--gpt-oss-20b-default", "--gpt-oss-120b-default",
             "--vision-gemma-4b-default", "--vision-gemma-12b-default"), FOREIGN,
            "path, after `moe-proxy pull`"),
    Refused(("-mmu", "--mmproj-url"), "it would overwrite the file of the model's projector",
            "--mmproj with a file", ("LLAMA_ARG_MMPROJ_URL",)),
    Refused(("-a", "--alias"), "answers name the model as the proxy does", "aliases",
            ("LLAMA_ARG_ALIAS",)),
    Refused(("--models-dir", "--models-preset", "--models-max", "--models-autoload",
             "--no-models-autoload"), "a worker serves one model", "catalog.dirs"),
    # By what a backend is chosen, and what was planned for it.
    Refused(("-c", "--ctx-size"), CHOSEN, "ctx"),
    Refused(("--kv-unified-per-slot",), CHOSEN, "ctx", ("LLAMA_ARG_KV_UNIFIED_PER_SLOT",)),
    Refused(("-np", "--parallel"), CHOSEN, "parallel"),
    Refused(("--embedding", "--embeddings", "--rerank", "--reranking"), CHOSEN, "mode",
            ("LLAMA_ARG_EMBEDDINGS", "LLAMA_ARG_RERANKING"), harmless=OFF),
    Refused(("-fit", "--fit", "-fitt", "--fit-target", "-fitc", "--fit-ctx"), PLANNED,
            "ctx and moe_cpu_layers", harmless=OFF),
    # Where tensors are, and in which form.
    Refused(("-cmoe", "--cpu-moe", "-ncmoe", "--n-cpu-moe"), PLANNED, "moe_cpu_layers",
            ("LLAMA_ARG_CPU_MOE", "LLAMA_ARG_N_CPU_MOE"), harmless=OFF),
    Refused(("-ncffn", "--n-cpu-ffn"), PLANNED, "dense_cpu_layers", ("LLAMA_ARG_N_CPU_FFN",),
            harmless=OFF),
    Refused(("-ot", "--override-tensor"),
            "experts that llama.cpp itself has placed cannot move", "moe_cpu_layers",
            ("LLAMA_ARG_OVERRIDE_TENSOR",)),
    Refused(("--rpc",), "devices would have other numbers than the proxy gives them", "rpc",
            ("LLAMA_ARG_RPC",)),
    Refused(("--repack",), "experts that llama.cpp itself has repacked cannot move", "repack"),
    Refused(("-lm", "--load-mode", "--no-mmap", "--mlock", "-dio", "--direct-io"),
            "experts are copied from the memory-mapped file, and go back there",
            "--load-mode mmap+mlock to keep it in RAM",
            harmless=frozenset(("mmap", "mmap+mlock"))),
    # Whether it lives, and is seen to.
    Refused(("--sleep-idle-seconds",), "it frees the model under experts that move", "keep_alive",
            ("LLAMA_ARG_SLEEP_IDLE_SECONDS",), harmless=frozenset(("-1",))),
    Refused(("--no-warmup",), "the proxy learns from the first step whether experts can move", "",
            ("LLAMA_ARG_NO_WARMUP",), ("LLAMA_ARG_WARMUP",)),
    Refused(("-h", "--help", "--usage", "--version", "-cl", "--cache-list", "--completion-bash",
             "--list-devices"), "llama-server says something and ends"),
    Refused(("--log-disable", "-lv", "--verbosity", "--log-verbosity"),
            "a load that says nothing is taken for one that hangs", "a verbosity of 3 or more",
            ("LLAMA_ARG_LOG_VERBOSITY",), harmless=frozenset(map(str, range(3, 10)))),
)
# fmt: on

_BY_NAME: Final[Mapping[str, Refused]] = {name: row for row in REFUSED for name in row.names}
_BY_VARIABLE: Final[Mapping[str, tuple[Refused, frozenset[str]]]] = {
    name: (row, harmless)
    for row in REFUSED
    for names, harmless in ((row.variables, row.harmless), (row.switches, ON))
    for name in names
}
# Such a variable counts whatever it is set to.
_NEGATED: Final = "LLAMA_ARG_NO_"
# A line of a config file: `key = value`, and a comment where it ends in one.
_CONFIG_LINE: Final = re.compile(r"([A-Za-z_][\w.-]*)[ \t]*=[ \t]*(.*?)[ \t]*(?:[;#].*)?")
# The sections that count for a server with one model; the first one has no header.
_CONFIG_SECTIONS: Final = ("default", "*")


def option_of(argument: str) -> str:
    """The option that llama-server takes `argument` for: it reads _ as -, and we any = as the end
    of a name, so that it can be told that it is refused for what it is."""
    if not argument.startswith("--"):
        return argument
    return argument.partition("=")[0].replace("_", "-")


def refused_args(args: Sequence[str]) -> Iterator[tuple[int, str]]:
    """The index of each argument that a hosted model cannot have, and a sentence that says why."""
    for index, argument in enumerate(args):
        option = option_of(argument)
        row = _BY_NAME.get(option)
        if row is None:
            continue
        _, has_value, value = argument.partition("=")
        if not has_value:
            value = args[index + 1] if index + 1 < len(args) else ""
        if value.lower() not in row.harmless:
            use = row.instead or 'engine = "command" where it is needed'
            yield index, f"{option} is not for hosted models: {row.why}; use {use}"


def refused_variables(env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The name of each variable by which llama-server would be told what a hosted model cannot
    have, and a sentence that says why and what to do."""
    for name, (row, harmless) in _BY_VARIABLE.items():
        value = env.get(name)
        if value or (value is not None and name.startswith(_NEGATED)):
            if value.lower() in harmless:
                continue
            yield (
                name,
                f"llama-server would take it for every hosted model: {row.why}; unset it for the "
                f"proxy (`env -u {name} moe-proxy serve`, or UnsetEnvironment={name} in its unit)",
            )


def config_files(env: Mapping[str, str]) -> tuple[Path, ...]:
    """The config files that every llama-server reads, whether they are there or not."""
    own = env.get("XDG_CONFIG_HOME") or (env.get("HOME") and f"{env['HOME']}/.config")
    folders = ("/etc", own) if own else ("/etc",)
    return tuple(Path(folder) / "llama.cpp" / "config.ini" for folder in folders)


def refused_config(text: str) -> Iterator[tuple[str, str]]:
    """The key of each line of such a file that says what a hosted model cannot have, and a sentence
    that says why."""
    section = _CONFIG_SECTIONS[0]
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            section = line[1:].partition("]")[0].strip()
        elif section in _CONFIG_SECTIONS and (match := _CONFIG_LINE.fullmatch(line)):
            key, value = match[1], match[2].lower()
            row, harmless = _by_key(key)
            if row is not None and value not in harmless:
                yield key, f"it counts for every hosted model: {row.why}; take it out"


def _by_key(key: str) -> tuple[Refused | None, frozenset[str]]:
    """The row for a key of a config file, which is a variable or an option without its dashes, and
    the values with which it may stand."""
    if key in _BY_VARIABLE:
        return _BY_VARIABLE[key]
    for name, harmless in ((f"--no-{key}", ON), (f"--{key}", None), (f"-{key}", None)):
        row = _BY_NAME.get(name)
        if row is not None and (row.variables or row.switches):
            off = OFF if key.startswith("no-") else row.harmless
            return row, off if harmless is None else harmless
    return None, NEVER
