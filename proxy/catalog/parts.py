"""The files of a split model: `name-00001-of-00003.gguf` and those that go with it."""

import re
from pathlib import Path
from typing import Final

from proxy.catalog.gguf import GgufError

# A bound that no real model comes near.
MAX_PARTS: Final = 1024
PART: Final = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.gguf", re.IGNORECASE)


def parts_of(path: Path) -> tuple[Path, ...]:
    """All files of the split model that `path` is a part of, in order; `path` if it is whole.

    Raises GgufError if a part is missing.
    """
    match = PART.fullmatch(path.name)
    if not match:
        return (path,)
    count = int(match["parts"])
    if not 1 <= int(match["part"]) <= count <= MAX_PARTS:
        raise GgufError(f"{path}: the name says part {match['part']} of {count}")
    stem, end = path.name[: match.start("part")], path.name[match.start("parts") - 4 :]
    files = tuple(path.with_name(f"{stem}{part:05d}{end}") for part in range(1, count + 1))
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise GgufError(f"{path}: {len(missing)} of {count} parts are missing: {missing[0]}")
    return files
