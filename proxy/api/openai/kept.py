"""The last responses, for requests that go on from one: in memory, up to a size, and gone with the
proxy. What was kept longest ago makes room."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from proxy.errors import ItemNotFound, PreviousNotFound, ResponseNotFound

Item = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Kept:
    """One response, of one `owner`: `items` is the conversation with its answer, as JSON."""

    owner: str
    response: bytes
    items: bytes
    ids: tuple[str, ...]  # of the items of its answer

    @property
    def size_bytes(self) -> int:
        return len(self.response) + len(self.items)


class KeptResponses:
    """Nobody gets what is another owner's. Not for more than one thread."""

    def __init__(self) -> None:
        # What changes: responses by id, the oldest first; in which of them an item is; how much
        # all of it is.
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._holders: dict[str, str] = {}
        self._size_bytes = 0

    def keep(
        self, response: Mapping[str, Any], items: Sequence[Item], owner: str, most_bytes: int
    ) -> None:
        """Keep a response that answers these `items`, unless it is larger than all may be."""
        made = response["output"]
        encoded = msgspec.json.encode([*items, *made])
        ids = tuple(item["id"] for item in made)
        kept = Kept(owner, msgspec.json.encode(response), encoded, ids)
        if kept.size_bytes <= most_bytes:
            self._kept[response["id"]] = kept
            self._holders.update(dict.fromkeys(ids, response["id"]))
            self._size_bytes += kept.size_bytes
        while self._size_bytes > most_bytes:
            self._drop(next(iter(self._kept)))

    def response(self, id: str, owner: str) -> bytes:
        """A response as it was, as JSON. Raises ResponseNotFound."""
        if (kept := self._find(id, owner)) is None:
            raise ResponseNotFound(f"no response {id[:80]!r} is kept; only the last ones are")
        return kept.response

    def forget(self, id: str, owner: str) -> None:
        """Raises ResponseNotFound."""
        self.response(id, owner)
        self._drop(id)

    def expand(self, previous: str | None, given: Sequence[Any], owner: str) -> list[Any]:
        """The conversation that `previous` ended, and what is `given` after it, where items may
        only refer to others. Raises PreviousNotFound and ItemNotFound."""
        items: list[Any] = []
        if previous is not None:
            if (kept := self._find(previous, owner)) is None:
                raise PreviousNotFound(
                    f"no response {previous[:80]!r} is kept; only the last ones are, so send the "
                    "whole conversation",
                    param="previous_response_id",
                )
            items = msgspec.json.decode(kept.items)
        return [*items, *(self._resolved(item, owner) for item in given)]

    def _resolved(self, item: Any, owner: str) -> Any:
        if not isinstance(item, dict) or "id" not in item:
            return item
        refers = item.get("type") == "item_reference" or item.keys() == {"id"}
        if not refers:
            return item
        id = str(item["id"])
        kept = self._find(self._holders.get(id, ""), owner)
        if kept is None:
            raise ItemNotFound(
                f"no item {id[:80]!r} is kept; only those of the last responses are, so send the "
                "item itself",
                param="input",
            )
        return next(each for each in reversed(msgspec.json.decode(kept.items)) if _is(each, id))

    def _find(self, id: str, owner: str) -> Kept | None:
        kept = self._kept.get(id)
        return kept if kept is not None and kept.owner == owner else None

    def _drop(self, id: str) -> None:
        kept = self._kept.pop(id)
        self._size_bytes -= kept.size_bytes
        for item in kept.ids:
            self._holders.pop(item, None)


def _is(item: Any, id: str) -> bool:
    return isinstance(item, dict) and item.get("id") == id
