"""A fleet as a command sees it: what its supervisors told last, and its nodes now."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from proxy.fleet.cluster.directory import Report
from proxy.fleet.cluster.machines import asked
from proxy.fleet.cluster.node_api import NodeApi, NotAnswered, of_command

ANSWER_S: Final = 30.0
NODE_S: Final = 3.0
# A supervisor tells each second: what is older may not be so any more.
FRESH_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A fleet, as its supervisors and its nodes tell. `states`: /admin/state, by name; of a node
    that does not answer, why. `ages`: seconds since its supervisor told last, by name."""

    reports: Sequence[Report]
    draining: frozenset[str]
    machines: int
    states: Mapping[str, Any]
    own: str = ""  # Ray's id of the machine of who looks
    ages: Mapping[str, float] = field(default_factory=dict)

    def is_silent(self, report: Report) -> bool:
        """It should answer, and its node or its supervisor does not."""
        silent = isinstance(self.states.get(report.name), str) or self.is_old(report)
        return report.state == "ready" and silent

    def is_old(self, report: Report) -> bool:
        return self.ages.get(report.name, 0.0) > FRESH_S


async def seen_of(directory: Any, own: str) -> Seen:
    """All nodes are asked at once. `own`: Ray's id of this machine."""
    told = await asyncio.wait_for(asked(directory, "status"), ANSWER_S)
    api = NodeApi(of_command(told["key"], os.environ))

    async def state(report: Report) -> Any:
        try:
            return await api.get(report.url or "", "/admin/state", NODE_S)
        except NotAnswered as error:
            return str(error)

    try:
        with_url = [each for each in told["reports"] if each.url]
        states = await asyncio.gather(*map(state, with_url))
    finally:
        await api.close()
    found = {each.name: one for each, one in zip(with_url, states, strict=True)}
    return Seen(
        told["reports"],
        frozenset(told["draining"]),
        told["machines"],
        found,
        own,
        told["ages"],
    )
