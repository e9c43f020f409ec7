"""Sizes and durations: "12GiB" and "1h30m" for people, bytes and seconds for us.

Formatting keeps the exact value, so that what is printed can be put back into a policy file.
"""

import math
import re
from decimal import Decimal
from typing import Final

FOREVER: Final = math.inf
SIZE_ALLOWED: Final = 'a size such as "512MiB", "12GiB" or "1.5GB", or a number of bytes'
DURATION_ALLOWED: Final = 'a duration such as "10s", "5m" or "1h30m", or a number of seconds'
KEEP_ALIVE_ALLOWED: Final = f'{DURATION_ALLOWED}; "0" unloads at once, "-1" never'

# Sizes go through C interfaces as signed 64-bit numbers, here and in the libraries below us.
MAX_BYTES: Final = 2**63 - 1
# A thousand years: more is a slip of the keyboard, and "never" has a name of its own.
MAX_SECONDS: Final = 1000 * 366 * 86400

_SIZE_UNITS: Final = {
    "TiB": 2**40,
    "GiB": 2**30,
    "MiB": 2**20,
    "KiB": 2**10,
    "TB": 10**12,
    "GB": 10**9,
    "MB": 10**6,
    "KB": 10**3,
    "B": 1,
}
_SIZE_BY_LOWER: Final = {unit.lower(): size for unit, size in _SIZE_UNITS.items()}
_SIZE: Final = re.compile(r"(\d{1,20}(?:\.\d{1,20})?)\s*([A-Za-z]*)", re.ASCII)

_SECONDS: Final = {
    "h": Decimal(3600),
    "m": Decimal(60),
    "s": Decimal(1),
    "ms": Decimal("1e-3"),
    "us": Decimal("1e-6"),
    "µs": Decimal("1e-6"),
    "ns": Decimal("1e-9"),
}
_DURATION_PART: Final = re.compile(
    r"(\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})(h|ms|m|s|us|µs|ns)", re.ASCII
)
_NUMBER: Final = re.compile(r"\d{1,20}(?:\.\d{1,20})?", re.ASCII)


def parse_size(value: object) -> int:
    """A size in bytes from "512MiB", "1.5 GB" (units in any case) or a whole number of bytes.

    A fraction of a byte is rounded. Raises ValueError that says what is allowed.
    """
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        number, unit = match.groups()
        factor = _SIZE_BY_LOWER.get(unit.lower() or "b")
        if factor is not None and (unit or "." not in number):
            value = round(Decimal(number) * factor)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_BYTES:
        return value
    raise ValueError(SIZE_ALLOWED)


def format_size(size: int) -> str:
    """`size` bytes in the largest unit that shows them exactly: 536870912 is "512MiB"."""
    for unit, factor in _SIZE_UNITS.items():
        if size >= factor and size % factor == 0:
            return f"{size // factor}{unit}"
    return "0B"


def parse_duration(value: object) -> float:
    """Seconds from "1h30m", "1.5s", "300" or a number, not negative.

    Raises ValueError that says what is allowed.
    """
    seconds = _seconds(value)
    if seconds is None or seconds < 0:
        raise ValueError(DURATION_ALLOWED)
    return seconds


def parse_keep_alive(value: object) -> float:
    """Seconds that an unused model stays loaded, as in Ollama: anything negative is FOREVER.

    Raises ValueError that says what is allowed.
    """
    seconds = _seconds(value)
    if seconds is None:
        raise ValueError(KEEP_ALIVE_ALLOWED)
    return FOREVER if seconds < 0 else seconds


def _seconds(value: object) -> float | None:
    if isinstance(value, str):
        # Go takes the micro sign and the Greek letter.
        return _seconds_of_text(value.strip().replace("\u03bc", "\u00b5"))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if -MAX_SECONDS <= value <= MAX_SECONDS else None


def _seconds_of_text(text: str) -> float | None:
    digits = text.lstrip("+-")
    if len(text) - len(digits) > 1:
        return None
    if _NUMBER.fullmatch(digits):
        total = Decimal(digits)
    else:
        parts = list(_DURATION_PART.finditer(digits))
        if not parts or "".join(part.group() for part in parts) != digits:
            return None
        total = sum((Decimal(part[1]) * _SECONDS[part[2]] for part in parts), Decimal(0))
    if total > MAX_SECONDS:
        return None
    return float(-total if text.startswith("-") else total)
