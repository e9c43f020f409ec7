"""Tells of each change of the policies' text within a fraction of a second of its saving.

Folders are watched, not files: editors put a new file in the place of the old one. What an event
says is not trusted; it only makes us look, and what counts is whether the text is another one.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy.kernel.changes import told_of_changes
from proxy.kernel.file_systems import tells
from proxy.policy.load import Loaded, parse
from proxy.policy.sources import Sources, candidates, policy_files, read
from proxy.threads import POLICIES

# watchfiles looks on a thread so often, which is most of what an idle proxy costs: at 20 ms alone
# 0.18 % of a core. A burst of events makes us look once nothing was added to it for so long, or
# after DEBOUNCE_MS.
STEP_MS: Final = 75
DEBOUNCE_MS: Final = 100
# We look without an event too: for what is mounted over a folder that is watched.
RECHECK_S: Final = 5.0
# ... and so often where events are not told: by some file systems, and where the machine has no
# watches left to give.
UNTOLD_S: Final = 0.4
SETTLE_S: Final = 0.02  # text that has stayed the same for this long was written to its end
# An emptied or missing file is how many programs begin to save. It has to last, or else the
# policies would be the defaults for a moment.
GONE_S: Final = 0.15
SETTLE_LIMIT_S: Final = 0.5  # a file that never comes to rest is taken as it is


@dataclass(frozen=True, slots=True)
class _Scope:
    """The folders and files to watch, with what tells them from others that take their name (device
    and inode), and the names that matter. A file that is mounted by itself changes without its
    folder."""

    places: frozenset[tuple[Path, int, int]]
    names: frozenset[str]
    told: bool  # their file systems tell of each change

    def concerns(self, path: str) -> bool:
        name = Path(path).name
        return name in self.names or name.endswith(".toml")


async def watch(
    path: Path | None, env: Mapping[str, str], *, since: Loaded | None = None
) -> AsyncGenerator[Loaded, None]:
    """Yield the policies each time their text has changed, good or bad.

    `path` and `env` are as for `load`. The first comparison is with `since`, so that nothing is
    lost between loading and watching; without it, with what is there now.
    """
    known = since.sources if since else await POLICIES.run(read, path, env)
    async with aclosing(_occasions(path, env)) as occasions:
        async for _ in occasions:
            current = await _settled(known, path, env)
            if current != known:
                known = current
                yield await POLICIES.run(parse, current, env)


async def _occasions(path: Path | None, env: Mapping[str, str]) -> AsyncGenerator[None, None]:
    """Yield whenever it is time to look, which events say, and RECHECK_S."""
    while True:
        try:
            scope = await POLICIES.run(_scope, path, env)
            async with told_of_changes(
                [place for place, _, _ in scope.places],
                scope.concerns,
                lane=POLICIES,
                debounce_ms=DEBOUNCE_MS,
                step_ms=STEP_MS,
            ) as changes:
                # What happened before it is watched sends no event.
                yield
                while await POLICIES.run(_scope, path, env) == scope:
                    await changes.come(RECHECK_S if scope.told else UNTOLD_S)
                    yield
        except (OSError, RuntimeError):
            # A folder went away just now, or may not be entered, or the machine has no watches
            # left (watchfiles has a RuntimeError of its own for that): go on without events.
            await asyncio.sleep(UNTOLD_S)
            yield


async def _settled(known: Sources, path: Path | None, env: Mapping[str, str]) -> Sources:
    """What there is to read once it no longer changes; at once if it is what is known."""
    current = await POLICIES.run(read, path, env)
    clock = asyncio.get_running_loop().time
    first = since = clock()
    while current != known and clock() - first < SETTLE_LIMIT_S:
        if clock() - since >= (GONE_S if _has_gone(known, current) else SETTLE_S):
            break
        await asyncio.sleep(SETTLE_S)
        again = await POLICIES.run(read, path, env)
        if again != current:
            current, since = again, clock()
    return current


def _has_gone(known: Sources, current: Sources) -> bool:
    """Whether a file that had text is empty now, or not there."""
    texts = dict(current.texts)
    return any(text.strip() and not texts.get(file, b"").strip() for file, text in known.texts)


def _scope(path: Path | None, env: Mapping[str, str]) -> _Scope:
    folders: set[Path] = set()
    files: set[Path] = set()
    names: set[str] = set()
    places = list(candidates(path, env))
    seen: set[Path] = set()
    while places:
        place = places.pop()
        if place in seen:
            continue
        seen.add(place)
        names.add(place.name)
        folders.add(_nearest_folder(place.parent, names))
        if place.is_dir():
            folders.add(place)
            inside = policy_files(place)
            files.update(inside)
            places += [file for file in inside if file.is_symlink()]
        else:
            files.add(place)
        # Whoever exchanges a link, here or on the way, exchanges the policies.
        for link in (place, *place.parents):
            if link.is_symlink():
                places += [link, link.parent / link.readlink()]
    there = folders | {each for each in files if each.exists()}
    return _Scope(_identified(there), frozenset(names), all(map(tells, there)))


def _identified(paths: set[Path]) -> frozenset[tuple[Path, int, int]]:
    statuses = ((path, path.stat()) for path in paths)
    return frozenset((path, status.st_dev, status.st_ino) for path, status in statuses)


def _nearest_folder(folder: Path, names: set[str]) -> Path:
    """The folder, or the nearest above it that is there; `names` gets those that may appear."""
    while not folder.is_dir():
        names.add(folder.name)
        folder = folder.parent
    return folder
