"""What an edit changes of the keys that are changed in their file alone: those that are `local` in
`proxy.policy.fields`."""

from pathlib import Path
from typing import Any, Final

from proxy.policy.document import Document, parse_document
from proxy.policy.problems import KeyPath, Problem

WHY: Final = (
    "{what} over HTTP; edit the file itself, or allow it there with server.remote_policies = true "
    "and server.api_keys_file"
)
UNREADABLE: Final = (
    "what the file says now cannot be read, so nobody knows which keys this would change; mend the "
    "file itself"
)


def local_changes(file: Path, old: bytes, new: bytes) -> list[Problem]:
    """Each such key that `new` sets, changes or removes. A `new` that is not TOML, or has unknown
    keys, changes none: it is never written, and who loads it tells what is wrong."""
    before, after = parse_document(file, old), parse_document(file, new)
    if after.problems:
        return []
    if before.unreadable:
        return [before.problem((), UNREADABLE)]
    was, will_be = _values(before), _values(after)
    changed = [path for path in will_be if path not in was or was[path] != will_be[path]]
    removed = [path for path in was if path not in will_be]
    return [
        *(after.problem(path, WHY.format(what="cannot be set")) for path in changed),
        *(before.problem(path, WHY.format(what="cannot be taken out")) for path in removed),
    ]


def _values(document: Document) -> dict[KeyPath, Any]:
    return {entry.path: entry.value for entry in document.entries if entry.field.local}
