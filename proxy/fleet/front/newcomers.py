"""Models that have come just now: a file was put into a folder, or a model was made, and no node
has told of it yet. Whoever asks for it is not told that there is none."""

import asyncio
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

import aiohttp
import msgspec

from proxy.fleet.front.asked import OPTIONS
from proxy.fleet.front.nodes import FleetNode, Nodes

ANSWER_S: Final = 2.0
LONGEST_NAME: Final = 512


async def look_for(nodes: Nodes, names: Sequence[str]) -> None:
    """Ask all nodes for a model that none has told of; who has it is known to have it then. Of
    several `names` that may be meant nobody is asked."""
    if len(names) != 1 or nodes.find(names[0]) is not None:
        return
    name = names[0].partition(OPTIONS)[0]
    if name and len(name) <= LONGEST_NAME and nodes.find(name) is None:
        there = [node for node in nodes if node.may_be_asked]
        await asyncio.gather(*(_ask(nodes, node, name) for node in there))


async def _ask(nodes: Nodes, node: FleetNode, name: str) -> None:
    url = f"{node.link.url}/v1/models/{quote(name, safe=':')}"
    try:
        async with asyncio.timeout(ANSWER_S), nodes.session.get(url) as answer:
            told = msgspec.json.decode(await answer.read())
    except (OSError, aiohttp.ClientError, ValueError):
        return  # as if it had none
    if answer.status == 200 and isinstance(told, dict):
        node.follower.know(told)
