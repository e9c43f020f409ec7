"""What changes in the fleet, for those who follow it at a front: as a single proxy tells it, with
the same topics and patches, of all nodes at once.

A front follows its nodes anyway, to choose by what they tell. Here that is put together: what a
node has is under ids that are the fleet's, so that one node's part is never another's.
"""

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from proxy.api.merge_patch import difference
from proxy.fleet.front.ids import marked, marked_with_id, of_fleet
from proxy.fleet.front.views.state import host, policies, queue
from proxy.observe.events import EventLog
from proxy.version import own_version

# What several nodes tell at about the same time goes out together.
SOON_S: Final = 0.25
LOST: Final = "lost"

State = Mapping[str, Mapping[str, Any]]


class Known(Protocol):
    """What is known of the nodes."""

    def states(self) -> Mapping[str, State]:
        """Of those that answer: all that their events began with, and what came of it since.
        What has changed is another object."""

    def about(self) -> Mapping[str, Mapping[str, Any]]:
        """Of all: `state`, `since` and the like."""


class FleetLive:
    """One for all who follow. Computes nothing while there is nobody."""

    def __init__(self, events: EventLog, known: Known, home: Callable[[], str | None]) -> None:
        """`home` says whose policies are shown."""
        self.events = events
        self._known, self._home = known, home
        self._instance = f"{os.getpid()}-{time.time_ns():x}"
        # What changes: what each node has been shown as, and of which state that was; what was
        # told last; and what the lists of models have been.
        self._parts: dict[str, tuple[State, State | None]] = {}
        self._told: State = {}
        self._seen: object = None
        self._models_seen = 0
        self.draining = False

    def happened(self, node: str, event: Mapping[str, Any]) -> None:
        """A node tells of something that happened there. What it has missed itself is no news."""
        kind = event["kind"]
        if kind == LOST:
            return
        fields = {key: value for key, value in event.items() if key not in ("id", "kind")}
        hand_on = self.events.publish if event.get("id") else self.events.tell
        hand_on(kind, **marked(node, fields))

    def everything(self) -> State:
        """All of it, such that the next patches are to be put on it."""
        self._look()
        return self._told

    async def run(self) -> None:
        """Tell until cancelled."""
        while True:
            await self.events.until_followed()
            await asyncio.sleep(SOON_S)
            if self.events.is_followed:
                self._look()

    def _look(self) -> None:
        now = self._state()
        for topic, values in now.items():
            if patch := difference(self._told.get(topic, {}), values):
                self.events.tell(topic, patch=patch)
        self._told = now

    def _state(self) -> State:
        states = self._known.states()
        parts = {}
        for name, state in states.items():
            before = self._parts.get(name)
            parts[name] = before if before and before[0] is state else (state, shown(name, state))
        self._parts = parts
        found = {name: each for name, (_, each) in parts.items() if each is not None}
        states = {name: states[name] for name in found}
        hosts = {name: state["memory"].get("host") or {} for name, state in states.items()}
        return {
            "proxy": self._proxy({name: state["proxy"] for name, state in states.items()}),
            "memory": {
                "devices": {
                    key: one for each in found.values() for key, one in each["devices"].items()
                },
                "host": host(hosts),
                "hosts": hosts,
            },
            "backends": {
                key: one for each in found.values() for key, one in each["backends"].items()
            },
            "requests": {
                key: one for each in found.values() for key, one in each["requests"].items()
            },
        }

    def _proxy(self, proxies: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        told = {name: each["policies"] for name, each in proxies.items()}
        seen = {
            name: (each["instance"], each["models_seen"], each["policies"]["generation"])
            for name, each in proxies.items()
        }
        if seen != self._seen:
            self._seen, self._models_seen = seen, self._models_seen + 1
        return {
            "version": own_version(),
            "instance": self._instance,  # another front has other events
            "draining": self.draining,
            "queue": queue(each["queue"] for each in proxies.values()),
            "policies": policies(told, self._home()),
            "models_seen": self._models_seen,  # another number: there may be other models
            "degraded": [
                marked(name, one) for name, each in proxies.items() for one in each["degraded"]
            ],
            "nodes": {name: dict(about) for name, about in self._known.about().items()},
        }


def shown(node: str, state: State) -> State | None:
    """The same; None where a node tells something else than one of this version does: it is left
    out, and all others are shown. Pure."""
    try:
        proxy, _ = state["proxy"], state["memory"].get("host")
        _ = proxy["instance"], proxy["models_seen"], proxy["policies"]["generation"]
        queue([proxy["queue"]])
        policies({node: proxy["policies"]}, None)
        for one in proxy["degraded"]:
            marked(node, one)
        return part(node, state)
    except (LookupError, TypeError, AttributeError):
        return None


def part(node: str, state: State) -> State:
    """What one node has, as it is shown of the fleet. Pure."""
    return {
        "devices": {
            of_fleet(node, name): marked(node, device)
            for name, device in (state["memory"].get("devices") or {}).items()
        },
        "backends": {
            of_fleet(node, its): marked_with_id(node, backend)
            for its, backend in state["backends"].items()
        },
        "requests": {
            of_fleet(node, its): marked_with_id(node, request)
            for its, request in state["requests"].items()
        },
    }
