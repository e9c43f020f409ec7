"""What a node's own table sets, as it is written, for people who look whether it is right."""

from collections.abc import Iterator
from dataclasses import dataclass

from proxy.policy.document import parse_document
from proxy.policy.load import Loaded
from proxy.policy.nodes import parted
from proxy.policy.problems import dotted
from proxy.policy.reference import literal


@dataclass(frozen=True, slots=True)
class Override:
    """`key` is what it overrides, `value` as in TOML, `place` where it stands."""

    key: str
    value: str
    place: str


def overrides(loaded: Loaded) -> Iterator[Override]:
    """Of the node that good policies were read for, in the order of the files."""
    for file, text in loaded.sources.texts:
        document = parse_document(file, text)
        for entry in document.entries:
            node, path = parted(entry.path)
            if node == loaded.node:
                place = document.problem(entry.path, "")
                yield Override(dotted(path), literal(entry.value), f"{place.file}:{place.line}")
