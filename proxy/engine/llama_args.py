"""Which of llama-server's options a hosted worker cannot have, or has only if its policy says so,
why, and what to use instead. Pure.

llama-server takes options from three places, later ones counting more: its config files, the
environment, of which workers see nothing, and its command line, where a policy's `args` come last.
So `args` are refused whatever we say ourselves, but config files only where our own command line
does not overrule them.

proxy/engine/llama_options.py says what was decided of each. A value that looks like an option is
taken for one.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from proxy.engine.llama_options import HARMLESS, OFF, ON, REFUSED, UNSAFE, Refused, Unsafe

_BY_NAME: Final[Mapping[str, Refused]] = {name: row for row in REFUSED for name in row.names}
_BY_VARIABLE: Final[Mapping[str, tuple[Refused, frozenset[str]]]] = {
    name: (row, harmless)
    for row in REFUSED
    for names, harmless in ((row.variables, row.harmless), (row.switches, ON))
    for name in names
}
_UNSAFE: Final[Mapping[str, Unsafe]] = {
    name: row for row in UNSAFE for name in (*row.names, *row.variables)
}
# Whatever else begins with a dash, a number or a text, is a value.
_OPTION: Final = re.compile(r"--?[A-Za-z][\w.-]*")
# What a shell makes two words of, or one. llama-server looks for an option of that whole name.
_TOGETHER: Final = re.compile(r"\s*(--?[A-Za-z][\w.-]*)(?:\s*=|\s)\s*(.*)", re.DOTALL)
_SPACED: Final = re.compile(r"\s+(--?[A-Za-z][\w.-]*)()")
# A line of a config file: `key = value`, and a comment where it ends in one.
_CONFIG_LINE: Final = re.compile(r"([A-Za-z_][\w.-]*)[ \t]*=[ \t]*(.*?)[ \t]*(?:[;#].*)?")
# The sections that count for a server with one model; the first one has no header.
_CONFIG_SECTIONS: Final = ("default", "*")


def option_of(argument: str) -> str:
    """The option that llama-server takes `argument` for, which reads _ as -, or would if its value
    did not stand in the same string: then it can be told that it is refused for what it is."""
    together = _apart(argument)
    option = together[0] if together else argument
    return option.replace("_", "-") if option.startswith("--") else option


def _apart(argument: str) -> tuple[str, str] | None:
    """An option and its value, if it has one, where both stand in one string; None where they do
    not, and for texts that only look like that."""
    match = _TOGETHER.fullmatch(argument) or _SPACED.fullmatch(argument)
    if match is None:
        return None
    option = match[1].replace("_", "-") if match[1].startswith("--") else match[1]
    known = option in HARMLESS or option in _BY_NAME or option in _UNSAFE
    return (match[1], match[2]) if known or argument == f"{match[1]}={match[2]}" else None


def refused_args(args: Sequence[str]) -> Iterator[tuple[int, str]]:
    """The index of each argument that a hosted model cannot have, and a sentence that says why."""
    for index, argument in enumerate(args):
        option, together = option_of(argument), _apart(argument)
        row = _BY_NAME.get(option)
        if together:
            value = together[1]
        else:
            value = args[index + 1] if index + 1 < len(args) else ""
        if row is not None and value.lower() not in row.harmless:
            use = row.instead or 'engine = "command" where it is needed'
            yield index, f"{option} is not for hosted models: {row.why}; use {use}"
        elif together:
            words = ", ".join(f'"{word}"' for word in together if word)
            yield index, f"llama-server does not know it written like that; write {words}"


def unsafe_args(args: Sequence[str]) -> Iterator[tuple[int, str]]:
    """The index of each argument that a hosted model has only where its policy says so, and a
    sentence that says what it does."""
    for index, argument in enumerate(args):
        option = option_of(argument)
        if row := _UNSAFE.get(option):
            yield index, f"{option}: {row.why}"
        elif _OPTION.fullmatch(option) and option not in HARMLESS and option not in _BY_NAME:
            yield index, f"{option}: nobody knows here what it does"


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


def _by_key(key: str) -> tuple[Refused | Unsafe | None, frozenset[str]]:
    """The row for a key of a config file, which is a variable or an option without its dashes, and
    the values with which it may stand."""
    if key in _BY_VARIABLE:
        return _BY_VARIABLE[key]
    for name, harmless in ((f"--no-{key}", ON), (f"--{key}", None), (f"-{key}", None)):
        row = _BY_NAME.get(name)
        if row is not None and (row.variables or row.switches):
            off = OFF if key.startswith("no-") else row.harmless
            return row, off if harmless is None else harmless
    return _UNSAFE.get(key) or _UNSAFE.get(f"--{key}") or _UNSAFE.get(f"-{key}"), OFF
