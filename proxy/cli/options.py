"""Options that several commands share, and how the values of options are read."""

import re
from argparse import ArgumentParser, ArgumentTypeError
from pathlib import Path

from proxy.errors import BadRequest
from proxy.split import ALLOWED, AUTO, Split, parse_split

# A name or an address, or one of IPv6 with brackets or without a port.
_HEAD = re.compile(
    r"(?:[\w.-]+|\[[0-9a-fA-F:.%]+\])(?::(\d{0,5}))?|[0-9a-fA-F.]*:[0-9a-fA-F:.%]*:[0-9a-fA-F:.%]*"
)


def add_policies(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--policies", type=Path, metavar="PATH", help="a file, or a folder of *.toml"
    )


def add_json(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_url(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--url", help="where the proxy is ($MOE_PROXY_URL, or where the policies say)"
    )


def add_node(parser: ArgumentParser) -> None:
    parser.add_argument("--node", metavar="NAME", help="the machine of a fleet that is to do it")


def add_client(parser: ArgumentParser) -> None:
    add_url(parser)
    add_json(parser)


# What these raise is told to the person, with the option's name before it.


def port(text: str) -> int:
    if text.isdecimal() and int(text) <= 65535:
        return int(text)
    raise ArgumentTypeError(f"{text!r} is not a port; use 0 to 65535")


def head(text: str) -> str:
    """The first machine of a fleet, with or without the port of its Ray."""
    match = _HEAD.fullmatch(text)
    if match and (not match[1] or 0 < int(match[1]) <= 65535):
        return text
    raise ArgumentTypeError(f"{text!r} is no address; use HOST or HOST:PORT, as in 10.0.0.1:6379")


def split(text: str) -> Split:
    try:
        return parse_split(text)
    except BadRequest:
        raise ArgumentTypeError(f"{text!r} is not allowed; use {ALLOWED}") from None


def count(text: str) -> int:
    if text.isdecimal() and 0 < int(text) < 2**31:
        return int(text)
    raise ArgumentTypeError(f"{text!r} is not allowed; use a whole number from 1 up")


def splits(text: str) -> tuple[int, ...] | None:
    """None: the command chooses."""
    if text == AUTO:
        return None
    numbers = text.split(",")
    if all(number.isdecimal() and len(number) < 10 for number in numbers):
        return tuple(map(int, numbers))
    raise ArgumentTypeError(f"{text!r} is not allowed; use auto, or numbers: 0,6,12")


def vram(text: str) -> str:
    """As it was written, where it is good."""
    from proxy.control.model_plan import parse_vram

    try:
        parse_vram(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is not allowed; use {error}") from None
    return text
