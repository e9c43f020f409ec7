"""The policies that are in force: the last good set, what is wrong with the newest text, and who is
told of changes.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from proxy.observe.events import EventLog
from proxy.policy.diff import Changes, diff
from proxy.policy.fields import FIELDS
from proxy.policy.load import Loaded, load
from proxy.policy.merge import Settings
from proxy.policy.model import Policies
from proxy.policy.problems import Problem
from proxy.policy.schema import Effect
from proxy.policy.watch import watch
from proxy.threads import POLICIES

log = structlog.get_logger()
Listener = Callable[[Policies, Policies, Changes], Awaitable[None]]


class LivePolicies:
    """Owns the snapshot. Readers take `current` once per request and never see half of an edit.

    What applies at the next start only is in it as it was at this one, whatever the files say.
    """

    def __init__(self, first: Loaded, *, events: EventLog) -> None:
        if first.policies is None:
            raise ValueError("the first policies have to be good")
        self._events = events
        self._listeners: list[Listener] = []
        # What changes:
        self.current: Policies = first.policies
        self.generation = 1
        self.newest = first  # may be bad
        self._parts = first.parts  # what is for single nodes of a fleet, of the last good ones
        self.waiting: tuple[str, ...] = ()  # the keys whose edit takes the next start

    def __repr__(self) -> str:
        return f"<LivePolicies generation={self.generation} problems={len(self.problems)}>"

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Why the newest text is not in force; empty if it is."""
        return self.newest.problems

    def to_json(self) -> dict[str, Any]:
        return {
            "generation": self.generation,
            "files": [str(file) for file in self.newest.files],
            "problems": [problem_to_json(problem) for problem in self.problems],
            "waiting_for_restart": list(self.waiting),
            "nodes": sorted(self._parts),  # who has a part, be there such a node or not
        }

    def elsewhere(self, loaded: Loaded) -> tuple[str, ...]:
        """The other nodes of a fleet for which `loaded` sets something else than what is in force
        does, in a table of their own."""
        return tuple(sorted({*_edited(self._parts, loaded.parts)} - {loaded.node}))

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Await `listener` at each change, after those that have subscribed before. Returns how to
        end that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def follow(self, path: Path | None, env: Mapping[str, str]) -> None:
        """Apply each change of the files, until cancelled."""
        changes = watch(path, env, since=self.newest)
        async with aclosing(changes):
            async for loaded in changes:
                await self.take(loaded)

    async def reread(self, path: Path | None, env: Mapping[str, str]) -> None:
        """Read the files now, without waiting for word of a change."""
        loaded = await POLICIES.run(load, path, env)
        if loaded.sources != self.newest.sources:
            await self.take(loaded)

    async def take(self, loaded: Loaded) -> None:
        """Put a newly read set into force if it is good; say what is wrong with it otherwise."""
        if loaded.policies is None:
            self.newest = loaded
            problems = [problem_to_json(problem) for problem in loaded.problems]
            self._events.publish("policies_refused", problems=problems)
            return
        old, new = self.current, until_restart(self.current, loaded.policies)
        changes, waiting = diff(old, new), tuple(diff(new, loaded.policies).keys)
        self.current, self.newest = new, loaded
        elsewhere = self.elsewhere(loaded)
        self._parts = loaded.parts
        self.generation += 1
        self._events.publish(
            "policies_changed",
            generation=self.generation,
            keys=sorted(changes.keys),
            models={name: list(change.keys) for name, change in changes.models.items()},
            defaults=list(changes.defaults_changed.keys) if changes.defaults_changed else [],
            nodes=list(elsewhere),
        )
        if waiting != self.waiting:
            self.waiting = waiting
            self._events.publish("policies_wait_for_restart", keys=list(waiting))
        for listener in self._listeners:
            # One part that fails to follow must not keep the others from it.
            try:
                await listener(old, new, changes)
            except Exception:
                log.exception("policy_change_failed", listener=repr(listener))


def _edited(old: Mapping[str, Settings], new: Mapping[str, Settings]) -> Iterator[str]:
    """The nodes whose own table sets something else now than before."""
    nothing = Settings()
    for node in old.keys() | new.keys():
        before, now = old.get(node, nothing), new.get(node, nothing)
        if (before.values, before.named.keys()) != (now.values, now.named.keys()):
            yield node


def until_restart(running: Policies, new: Policies) -> Policies:
    """What of `new` can be in force now: what applies at the next start is as in `running`."""
    for field in FIELDS:
        if field.effect is Effect.RESTART:
            table, attribute = field.path[0], field.attribute
            value = getattr(getattr(running, table), attribute)
            changed = replace(getattr(new, table), **{attribute: value})
            new = replace(new, **{table: changed})
    return new


def problem_to_json(problem: Problem) -> dict[str, Any]:
    return {
        "file": problem.file,
        "line": problem.line,
        "key": problem.key,
        "message": problem.message,
    }
