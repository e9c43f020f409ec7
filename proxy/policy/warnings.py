"""What good policies say that may yet be a mistake. Nothing here keeps them from taking effect: a
disk may not be mounted, a folder may be filled later."""

from dataclasses import replace

from proxy.errors import reason_of
from proxy.policy.load import Loaded
from proxy.policy.problems import Problem


def warnings_of(loaded: Loaded) -> tuple[Problem, ...]:
    """Files and folders that are named and not there, in the order of the keys. Asks the file
    system, which may take its time."""
    found = []
    for path, place in loaded.named:
        try:
            path.stat()
        except OSError as error:
            found.append(replace(place, message=f"{reason_of(error)}: {path}"))
    folder = loaded.sources.folder
    if folder and not loaded.files and not loaded.sources.failed:
        empty = "there is no *.toml in this folder, so the built-in defaults are used"
        found.insert(0, Problem(str(folder), None, "", empty))
    return tuple(found)
