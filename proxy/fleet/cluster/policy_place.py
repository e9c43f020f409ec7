"""Where a machine has the fleet's policies: among its own files, or, where these cannot be written
(a disk that is only read, a file that is in the way), in a folder of the supervisor's. A node with
other policies than the fleet's would let in others, and lend what is not to be lent.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from proxy.errors import reason_of
from proxy.fleet.cluster.directory import Entry
from proxy.fleet.cluster.policy_follower import PolicyFollower
from proxy.fleet.cluster.policy_sync import Folder
from proxy.threads import POLICIES

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Place:
    """`path` is what the node is to read. `says`, for people: why it is not the machine's own."""

    path: Path
    follower: PolicyFollower
    says: str = ""


async def place(
    wanted: Path,
    supervisors: Path,
    fleet: Callable[[], Mapping[str, Entry]],
    follower: Callable[[Folder], PolicyFollower],
) -> Place:
    """With the fleet's set in it. `supervisors` is the supervisor's folder, which can be
    written. Raises OSError, Hangs."""
    try:
        folder = await POLICIES.run(Folder, wanted, supervisors / "policies.json")
        made = follower(folder)
        await made.join(fleet())
        return Place(wanted, made)
    except OSError as error:
        why = reason_of(error)
    ours = supervisors / "policies"
    log.warning("fleet_policies_not_among_own", path=str(wanted), reason=why, instead=str(ours))
    made = follower(await POLICIES.run(Folder, ours, supervisors / "policies-here.json"))
    await made.join(fleet())
    return Place(
        ours,
        made,
        f"the fleet's policies cannot be written to {wanted} ({why}): what counts here is in "
        f"{ours}; edits there are the fleet's, and those in {wanted} count no more",
    )
