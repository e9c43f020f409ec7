"""Options of benches, each refused with its reason before anything is measured, and a quiet end by
Ctrl-C."""

import argparse
import math
import os
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from types import TracebackType

Refused = argparse.ArgumentTypeError


def count(least: int = 1) -> Callable[[str], int]:
    """A whole number of at least so much."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise Refused(f"{text!r} is not a whole number") from None
        if number < least:
            raise Refused(f"{number} is too few: at least {least}")
        return number

    return read


def amount(*, zero: bool = False) -> Callable[[str], float]:
    """A finite number above 0. `zero`: or 0."""

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            raise Refused(f"{text!r} is not a number") from None
        if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
            raise Refused(f"{text} is not a finite number {'from' if zero else 'above'} 0")
        return number

    return read


def model_file(text: str) -> Path:
    """One that is there."""
    path = Path(text)
    if not path.is_file():
        raise Refused(f"{text} is no file")
    return path


def model_size(sizes: Collection[str]) -> Callable[[str], str]:
    """The name of a generated model, or a model's file."""

    def read(text: str) -> str:
        if text not in sizes and not Path(text).is_file():
            raise Refused(f"{text!r} is neither one of {', '.join(sizes)} nor a file")
        return text

    return read


def program(text: str) -> Path:
    path = model_file(text)
    if not os.access(path, os.X_OK):
        raise Refused(f"{text} cannot be run")
    return path


def checkout(text: str) -> Path:
    """A folder with another state of this repository."""
    path = Path(text)
    if not (path / "proxy" / "__init__.py").is_file():
        raise Refused(f"{text} is no checkout of moe-proxy: it has no proxy/__init__.py")
    return path


def result_file(text: str) -> Path:
    """A file that can be written when all is measured, which would be late to find out."""
    path = Path(text)
    if path.is_dir():
        raise Refused(f"{text} is a folder")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise Refused(f"{text} cannot be written: is its folder there?")
    return path


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options. From then on Ctrl-C ends it with a word instead of a stack trace."""
    options = parser.parse_args()
    sys.excepthook = _told
    return options


def _told(kind: type[BaseException], error: BaseException, trace: TracebackType | None, /) -> None:
    """What goes wrong in what is given up because of Ctrl-C is nobody's concern."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__context__
    if cause is None:
        sys.__excepthook__(kind, error, trace)
    else:
        print("stopped", file=sys.stderr)
