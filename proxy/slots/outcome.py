"""What became of the conversations in one worker's slots, for the log and the event stream."""

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Outcome:
    """Counts while they are carried. What is lost is read again when it is asked for."""

    conversations: int = 0
    tokens: int = 0
    bytes: int = 0
    lost_tokens: int = 0  # as far as llama-server told
    reasons: list[str] = field(default_factory=list)  # why some were lost, each once
    began_s: float = field(default_factory=time.monotonic)

    def kept(self, tokens: int, size_bytes: int) -> None:
        self.conversations += 1
        self.tokens += tokens
        self.bytes += size_bytes

    def lost(self, tokens: int | None, why: str) -> None:
        self.lost_tokens += tokens or 0
        if why not in self.reasons:
            self.reasons.append(why)

    def counts(self) -> dict[str, Any]:
        """Of what was kept."""
        return {
            "conversations": self.conversations,
            "tokens": self.tokens,
            "bytes": self.bytes,
            "took_s": round(time.monotonic() - self.began_s, 3),
        }
