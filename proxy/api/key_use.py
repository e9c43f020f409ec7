"""What was made of an API key, and whether it may ask once more."""

from datetime import UTC, datetime
from typing import Final

MINUTE_S: Final = 60.0


class KeyUse:
    """What was made of one key, and how many requests it may still make at once."""

    def __init__(self, per_minute: int | None, now_s: float) -> None:
        self.requests = self.refused = 0
        self.last_used: datetime | None = None
        self._left, self._at_s = float(per_minute or 0), now_s

    def take(self, per_minute: int | None, now_s: float) -> float:
        """Count a request; 0, or in how many seconds it would be taken."""
        self.last_used = datetime.now(UTC)
        if per_minute is not None:
            regained = (now_s - self._at_s) * per_minute / MINUTE_S
            self._left, self._at_s = min(self._left + regained, per_minute), now_s
            if self._left < 1:
                self.refused += 1
                return (1 - self._left) * MINUTE_S / per_minute
            self._left -= 1
        self.requests += 1
        return 0.0
