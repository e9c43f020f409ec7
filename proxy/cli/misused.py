"""What a command line may have meant that says what no command takes. Pure."""

import difflib
from collections.abc import Iterable, Sequence

# What the same is called elsewhere.
MEANT = {
    **{"status": "ps", "top": "ps", "start": "serve", "chat": "run", "tags": "list"},
    **{"delete": "rm", "remove": "rm", "copy": "cp", "download": "pull", "estimate": "plan"},
    **{"validate": "check", "benchmark": "bench", "info": "show", "log": "logs"},
}


def unknown(word: str, commands: Iterable[str]) -> str:
    """That there is no such command, and which one may be meant."""
    near = difflib.get_close_matches(word.lower(), commands, n=3)
    meant = [MEANT[word.lower()]] if word.lower() in MEANT else near
    hint = f"; did you mean {' or '.join(meant)}?" if meant else ""
    return f"there is no command {word!r}{hint} (moe-proxy --help lists them)"


def too_much(words: Sequence[str], options: Iterable[str]) -> str:
    """That `words` are more than a command takes, and what may be meant. `options`: those that it
    has."""
    first = words[0]
    if not first.startswith("-"):
        return f"{first!r} is more than it takes; a name with spaces in it wants quotes"
    near = difflib.get_close_matches(first.partition("=")[0], options, n=1)
    return f"there is no option {first}" + (f"; did you mean {near[0]}?" if near else "")
