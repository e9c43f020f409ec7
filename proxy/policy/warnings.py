"""What good policies say that may yet be a mistake. Nothing here keeps them from taking effect: a
disk may not be mounted, a folder may be filled later."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from proxy.engine import installed
from proxy.engine.build_options import NO_CACHE, has_expert_cache
from proxy.engine.environment import not_seen
from proxy.engine.llama_args import config_files, refused_config
from proxy.errors import reason_of
from proxy.files import open_regular, read_small
from proxy.policy.load import Loaded
from proxy.policy.problems import ENVIRONMENT, Problem
from proxy.policy.sources import MOST_BYTES

LIBDIR: Final = "engine.libdir"
BACKENDS: Final = "engine.backends["
LIBRARY: Final = b"\x7fELF"
NOT_SEEN: Final = "workers do not see it; use args of a model, or env where its engine is a command"


def warnings_of(loaded: Loaded, env: Mapping[str, str]) -> tuple[Problem, ...]:
    """Files, folders and programs that are named and not there, in the order of the keys; what is
    allowed and better known; expert caches that the build does not have; variables that workers do
    not see although they are meant for llama-server; and what llama.cpp would read in files of its
    own that keeps hosted models from being loaded. Asks the file system, which may take its time.
    """
    found = []
    for path, place in loaded.named:
        try:
            path.stat()
        except OSError as error:
            found.append(replace(place, message=f"{reason_of(error)}: {path}"))
        else:
            if why := _why_no_libraries(path, place.key):
                found.append(replace(place, message=f"no hosted model loads: {why}"))
    for program, place in loaded.programs:
        if not shutil.which(program, path=env.get("PATH")):
            found.append(replace(place, message=f"there is no program {program}"))
    folder = loaded.sources.folder
    if folder and not loaded.files and not loaded.sources.failed:
        empty = "there is no *.toml in this folder, so the built-in defaults are used"
        found.insert(0, Problem(str(folder), None, "", empty))
    unseen = [Problem(ENVIRONMENT, None, name, NOT_SEEN) for name in not_seen(env)]
    return (*found, *loaded.notes, *_of_caches(loaded), *unseen, *_of_config_files(env))


def _why_no_libraries(path: Path, key: str) -> str | None:
    """Of the libraries that the policies name: why none can be had of `path`."""
    if key == LIBDIR and (missing := installed.lacking(path)):
        return f"no lib{missing[-1]}.so in {path}"
    if not key.startswith(BACKENDS):
        return None
    try:
        with open_regular(path) as file:
            return None if file.read(len(LIBRARY)) == LIBRARY else f"{path} is no library"
    except OSError as error:
        return reason_of(error)


def _of_caches(loaded: Loaded) -> list[Problem]:
    """Models are loaded without one then: they answer, and nothing else is wrong with them."""
    policies = loaded.readable
    if not loaded.caches or policies is None or has_expert_cache(policies.engine.libdir):
        return []
    told = {(note.file, note.line, note.key) for note in loaded.notes}  # of a command's
    places = [each for each in loaded.caches if (each.file, each.line, each.key) not in told]
    return [replace(place, message=f"no effect: {NO_CACHE}") for place in places]


def _of_config_files(env: Mapping[str, str]) -> list[Problem]:
    found = []
    for file in config_files(env):
        try:
            text = read_small(file, MOST_BYTES).decode(errors="replace")
        except OSError:
            continue
        found += [Problem(str(file), None, key, why) for key, why in refused_config(text)]
    return found
