"""Reads and replaces policy files on behalf of an operator: only those that are in use, and only by
good ones.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from proxy.errors import BadRequest, ChangedMeanwhile, NotFound, reason_of
from proxy.files import read_small, replace
from proxy.policy.live import problem_to_json
from proxy.policy.load import Loaded, parse
from proxy.policy.local_keys import local_changes
from proxy.policy.problems import Problem
from proxy.policy.sources import MOST_BYTES, Sources
from proxy.policy.units import format_size

# One at a time: of two that know the same text, one is to hear of the other.
_WRITING = threading.Lock()


def tag_of(text: bytes) -> str:
    """What tells a text from others, for `ETag` and `If-Match`."""
    return f'"{hashlib.sha256(text).hexdigest()[:16]}"'


def find_policy_file(files: Iterable[Path], name: str) -> Path:
    """The file in use that is called `name`. A name is compared and never joined to a path."""
    files = list(files)
    for file in files:
        if name in (file.name, str(file)):
            return file
    there = ", ".join(file.name for file in files) or "none"
    raise NotFound(f"there is no policy file {name!r} in use; there is {there}")


def read_policy_file(files: Iterable[Path], name: str) -> bytes:
    file = find_policy_file(files, name)
    try:
        return read_small(file, MOST_BYTES)
    except OSError as error:
        raise NotFound(f"{name}: {reason_of(error)}") from error


def write_policy_file(
    newest: Loaded,
    name: str,
    text: bytes,
    *,
    every_key: bool,
    keep: Callable[[Path, bytes], None],
    expected: str | None = None,
) -> tuple[HTTPStatus, list[dict[str, Any]]]:
    """Put `text` in the place of the file, in one step, if the whole set is good with it, and if it
    changes no key that is changed in its file alone, or `every_key` may be changed.

    Returns the problems otherwise; then nothing was written. Raises BadRequest, and
    ChangedMeanwhile where the file's tag is not `expected`. `keep` is given the file and the text
    that it had.
    """
    forbidden, checked = parsed_with(newest, name, text, every_key=every_key)
    if forbidden:
        return HTTPStatus.FORBIDDEN, _to_json(forbidden)
    if checked.problems:
        return HTTPStatus.BAD_REQUEST, _to_json(checked.problems)
    target = find_policy_file(newest.files, name)
    with _WRITING:
        before = read_policy_file(newest.files, name)
        if expected is not None and expected not in ("*", tag_of(before)):
            raise ChangedMeanwhile(f"{target.name} was saved by somebody else meanwhile")
        keep(target, before)
        replace(target.resolve(), text)  # a link stays a link
    return HTTPStatus.OK, []


def parsed_with(
    newest: Loaded, name: str, text: bytes, *, every_key: bool
) -> tuple[list[Problem], Loaded]:
    """What may not be changed over HTTP, unless `every_key` may, and the whole set with `text` in
    the place of the file. Raises NotFound, and BadRequest where it is too long."""
    target = find_policy_file(newest.files, name)
    if len(text) > MOST_BYTES:
        raise BadRequest(f"a policy file has at most {format_size(MOST_BYTES)}")
    before = read_policy_file(newest.files, name)
    forbidden = [] if every_key else local_changes(target, before, text)
    texts = tuple((file, text if file == target else old) for file, old in newest.sources.texts)
    return forbidden, parse(Sources(texts, newest.sources.failed), os.environ)


def _to_json(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    return [problem_to_json(problem) for problem in problems]
