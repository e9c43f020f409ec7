"""Who is in a fleet, as its fronts are told: one line of JSON each time that it changes."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from proxy.node.names import USABLE_NAME


@dataclass(frozen=True, slots=True)
class Member:
    """A node that can be reached, which says nothing of whether it answers."""

    name: str
    url: str  # of its moe-proxy, http: or https:
    draining: bool = False  # gets nothing new


@dataclass(frozen=True, slots=True)
class Members:
    nodes: Sequence[Member] = ()


def line_of(members: Members) -> bytes:
    return msgspec.json.encode(members) + b"\n"


def members_of(line: bytes) -> Members:
    """Raises ValueError for what `line_of` has not written."""
    try:
        members = msgspec.json.decode(line, type=Members)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error
    for node in members.nodes:
        if not USABLE_NAME.fullmatch(node.name):
            raise ValueError(f"no name for a node: {node.name}")
    return members
