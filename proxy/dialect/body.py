"""The JSON body of a request that goes on to an engine: its top level is taken apart once, however
many look at it, and what nobody changes goes on byte for byte. Pure.
"""

import re
from collections.abc import Mapping

import msgspec

from proxy.dialect.synonyms import as_taken, by_known_names, still_open

_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Body:
    """A JSON object, known to be one. Whoever has something to say changes it in place."""

    __slots__ = ("_data", "_fields", "_front", "_is_changed")

    def __init__(self, data: bytes) -> None:
        self._data = data
        # What changes: the fields, once somebody has looked; what was put before them, as text; and
        # whether more was changed than that.
        self._fields: dict[str, msgspec.Raw] | None = None
        self._front = b""
        self._is_changed = False

    @classmethod
    def of(cls, values: Mapping[str, object]) -> "Body":
        """A body that says this; values may be `msgspec.Raw`."""
        fields = {key: msgspec.Raw(msgspec.json.encode(value)) for key, value in values.items()}
        made = cls(msgspec.json.encode(fields))
        made._fields = fields
        return made

    @property
    def fields(self) -> Mapping[str, msgspec.Raw]:
        """Key -> its value as JSON."""
        if self._fields is None:
            self._fields = _decoder.decode(self._data)
        return self._fields

    def mentions(self, text: bytes) -> bool:
        """Whether the text stands somewhere in it: what does not need not be looked for."""
        return text in self._data or text in self._front

    def has(self, pattern: re.Pattern[bytes]) -> bool:
        """The same for one of several texts, which takes no longer than for one."""
        return bool(pattern.search(self._data) or pattern.search(self._front))

    def has_more_than(self, count: int, text: bytes) -> bool:
        """Whether the text stands more often in what came than this."""
        return self._data.count(text) > count

    def add_defaults(self, params: Mapping[str, object]) -> None:
        """Put those `params` in front of which it does not say anything itself, by no name."""
        if params:
            self._put(still_open(params, self.fields))

    def say_known_names(self) -> None:
        """Say by names and numbers that llama-server takes what it would not see, or refuse."""
        self._put(by_known_names(self.fields))
        if changed := as_taken(self.fields):
            self.change(changed)

    def _put(self, missing: Mapping[str, object]) -> None:
        if not missing:
            return
        # A key that is there with null would count, as the last of two.
        self._is_changed = self._is_changed or any(key in self.fields for key in missing)
        added = {key: msgspec.Raw(msgspec.json.encode(v)) for key, v in missing.items()}
        front = msgspec.json.encode(missing)[1:-1]
        self._front = front + b"," + self._front if self._front else front
        rest = {key: value for key, value in self.fields.items() if key not in added}
        self._fields = {**added, **rest}

    def change(self, changed: Mapping[str, object]) -> None:
        """Give keys other values, which may be `msgspec.Raw`."""
        raw = {key: msgspec.Raw(msgspec.json.encode(value)) for key, value in changed.items()}
        self._fields = {**self.fields, **raw}
        self._is_changed = True

    def replace(self, fields: Mapping[str, msgspec.Raw]) -> None:
        """Have these fields, and no others. What it mentions is looked for in its text, so that is
        written anew."""
        self._fields = dict(fields)
        self._data, self._front, self._is_changed = msgspec.json.encode(self._fields), b"", False

    def encode(self) -> bytes:
        """The text to send."""
        if self._is_changed:
            return msgspec.json.encode(self._fields)
        if not self._front:
            return self._data
        start = self._data.index(b"{") + 1
        rest = self._data[start:]
        comma = b"" if rest.lstrip().startswith(b"}") else b","
        return b"".join((self._data[:start], self._front, comma, rest))
