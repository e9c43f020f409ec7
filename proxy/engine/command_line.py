"""The command lines of a foreign server, with what they are told filled in. Pure."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from proxy.engine.types import LoadOptions
from proxy.errors import LoadFailed

SPLIT: Final = "moe_cpu_layers"
# The layers below that number as a regular expression, for programs that take tensors' names.
SPLIT_REGEX: Final = "moe_cpu_layers_regex"
# Of one conversation, and of all that it computes at the same time together.
CTX: Final = "ctx"
CTX_TOTAL: Final = "ctx_total"
PID: Final = "pid"
OF_COMMAND: Final = ("port", "model", "name", CTX, CTX_TOTAL, "parallel", SPLIT, SPLIT_REGEX)
OF_STOP_COMMAND: Final = (*OF_COMMAND, PID)
# A word in braces that is neither JSON nor a part of a regular expression.
_LIKE_ONE: Final = re.compile(r"\{([A-Za-z_]\w*)\}")
# What no shell reads anything into, wherever it stands; as in `shlex`.
_PLAIN: Final = re.compile(r"[\w@%+=:,./-]+", re.ASCII)


def fill_in(options: LoadOptions, port: int) -> list[str]:
    """The command line of the server. Only placeholders are touched: JSON in an argument keeps its
    braces. Raises LoadFailed for a name that would be more than a name there."""
    for part in (*options.command, *options.stop_command):
        _check_name(part, options)
    return [*_filled(options.command, options, port=port), *options.args]


def fill_in_stop(options: LoadOptions, port: int, pid: int) -> list[str]:
    """The command line of what stops it."""
    return _filled(options.stop_command, options, port=port, pid=pid)


def takes_split(command: Iterable[str]) -> bool:
    """Whether the program is told where the experts are to be."""
    return _names(command, SPLIT, SPLIT_REGEX)


def takes_ctx(command: Iterable[str]) -> bool:
    """Whether the program is told how long a conversation may be."""
    return _names(command, CTX, CTX_TOTAL)


def names_pid(command: Iterable[str]) -> bool:
    return _names(command, PID)


def _names(command: Iterable[str], *names: str) -> bool:
    return any(f"{{{name}}}" in part for part in command for name in names)


def not_filled_in(part: str, known: Sequence[str]) -> list[str]:
    """What looks like a placeholder in an argument, and is none."""
    return [name for name in _LIKE_ONE.findall(part) if name not in known]


def _check_name(part: str, options: LoadOptions) -> None:
    """Names can be given over HTTP, and what is run cannot: so a name may not be an option, nor
    anything in the script of a shell but a word."""
    name = options.model
    # Without a file, the name is all there is to fill in.
    places = ("{name}", "{model}") if options.path == Path(name) else ("{name}",)
    if not any(place in part for place in places):
        return
    is_script = len(part.split()) > 1
    if name.startswith("-") and (is_script or part.startswith(places)):
        raise LoadFailed(f"a model that is called {name!r} would be an option in its command")
    if is_script and not _PLAIN.fullmatch(name):
        raise LoadFailed(
            f"a model that is called {name!r} would be more than one word in the script of its "
            "command; give it another name, or {name} as an argument of its own"
        )


def _filled(command: Iterable[str], options: LoadOptions, **more: int) -> list[str]:
    split = options.split or 0
    values = {
        "model": options.path,
        "name": options.model,
        CTX: options.ctx,
        CTX_TOTAL: options.ctx * options.parallel,
        "parallel": options.parallel,
        SPLIT: split,
        # With none it matches no name: between two dots of those there is always a number.
        SPLIT_REGEX: "|".join(map(str, range(split))),
        **more,
    }
    placeholder = re.compile(r"\{(" + "|".join(values) + r")\}")
    return [placeholder.sub(lambda match: str(values[match[1]]), part) for part in command]
