"""Points in time as Go writes them, which is how Ollama does. Pure."""

from datetime import UTC, datetime

NANOSECONDS = 1_000_000_000


def rfc3339(ns: int) -> str:
    """A point in time (ns since the epoch) in UTC: nine digits, less the zeros at their end."""
    seconds, rest = divmod(ns, NANOSECONDS)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    digits = f"{rest:09d}".rstrip("0")
    return f"{text}.{digits}Z" if digits else f"{text}Z"
