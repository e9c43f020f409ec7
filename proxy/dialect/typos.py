"""Names in a body that nobody knows here, but that are close to one that means something: typos
that would do nothing, without a word. Pure.

Most bodies have none, and cost a look at the names of their fields.
"""

import difflib
import re
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from itertools import islice
from typing import Final

from proxy.dialect.lenient import FIELDS
from proxy.dialect.ollama.options import LOADING, SAMPLING
from proxy.split import OPTION_NAMES

OPTION: Final = OPTION_NAMES[0]
OLLAMAS: Final = frozenset((*SAMPLING, *LOADING, "num_ctx"))
# Of llama-server and other engines: close to one that is meant here, and something else.
OTHERS: Final = frozenset({"n_keep", "typical", "mirostat_mode", "temperature_last"})
KNOWN: Final = FIELDS | OLLAMAS | OTHERS | {*OPTION_NAMES}
# As many letters of a name have to be right.
ALIKE: Final = 0.83
SHORTEST: Final = 6  # shorter names are close to too many words
LONGEST: Final = 40
MOST: Final = 5  # are told of at a time
MOST_LOOKED_AT: Final = 50  # names of one body, which may have a million
_NO_LETTER: Final = re.compile(r"[^a-z0-9]")
# What says that somebody means the experts' place, however it is put.
_ABOUT_EXPERTS: Final = re.compile(r"moe.*(?:cpu|layer|offload)|(?:cpu|offload|layer).*moe|ncmoe")


def _letters(name: str) -> str:
    return _NO_LETTER.sub("", name.lower())


# Where options stand, and where libraries for Python have people put them: they unpack that.
PLACE: Final = "options"
UNPACKED: Final = "extrabody"
_BY_LETTERS: Final = {_letters(name): name for name in sorted(OLLAMAS)}


@lru_cache(1024)
def meant_by(name: str) -> str | None:
    """The option that is meant by a name that is none; None: no idea."""
    if len(name) > LONGEST:
        return None
    letters = _letters(name)
    if _ABOUT_EXPERTS.search(letters):
        return OPTION
    if letters in _BY_LETTERS or len(letters) < SHORTEST:
        return _BY_LETTERS.get(letters)
    near = difflib.get_close_matches(letters, _BY_LETTERS, n=1, cutoff=ALIKE)
    return _BY_LETTERS[near[0]] if near else None


def _place_meant_by(name: str) -> str | None:
    return PLACE if difflib.get_close_matches(_letters(name), (PLACE,), cutoff=ALIKE) else None


def in_body(names: Collection[str]) -> list[str]:
    """What to say of the fields of a body that goes to an engine."""
    told = [*_typos(name for name in names if name not in KNOWN)]
    if "num_ctx" in names:
        told.append(_misplaced("num_ctx"))
    return told


def in_ollamas_body(names: Collection[str], fields: Collection[str]) -> list[str]:
    """What to say of those of Ollama's own requests, which has these `fields`."""
    others = {*names}.difference(fields)
    told = [_misplaced(name) for name in sorted(others & OLLAMAS)]
    return [*told, *_typos(others - KNOWN)]


def in_options(names: Iterable[str]) -> list[str]:
    """What to say of options that nobody knows."""
    return [*_typos(names, "options.")]


def _typos(names: Iterable[str], place: str = "") -> Iterator[str]:
    near = [name for name in islice(names, MOST_LOOKED_AT) if len(name) <= LONGEST]
    return filter(None, (_typo(name, place) for name in sorted(near)))


@lru_cache(1024)
def _typo(name: str, place: str) -> str | None:
    """What to say of one, which is not longer than any that means something."""
    if not place and _letters(name) == UNPACKED:
        return f"{_shown(name)} does nothing; what is in it belongs beside model"
    if meant := meant_by(name) or (None if place else _place_meant_by(name)):
        return f"{place}{_shown(name)} is not known; did you mean {meant}?"
    return None


def _misplaced(name: str) -> str:
    return f"{name} does nothing beside model; it belongs into options"


def _shown(name: str) -> str:
    """In letters that a header may have."""
    return name if name.isascii() and name.isprintable() else ascii(name)
