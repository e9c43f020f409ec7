"""What a policy key is: its kind, default, bounds, help, and how a change of it takes effect.

The keys themselves are in `proxy.policy.fields`.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum, unique
from typing import Final

from proxy.policy import units
from proxy.split import ALLOWED as SPLIT_ALLOWED

MAX_COUNT: Final = 2**31 - 1  # llama.cpp keeps counts in a C int


@unique
class Kind(Enum):
    """What a value is; `allowed` says it to people, `suffix` puts the unit into a name."""

    TEXT = ("a string", "")
    CHOICE = ("one of a few words", "")
    FLAG = ("true or false", "")
    COUNT = ("an integer", "")
    COUNT_OR_AUTO = ('an integer, or "auto"', "")
    SIZE = (units.SIZE_ALLOWED, "_bytes")
    SIZE_OR_AUTO = (f'{units.SIZE_ALLOWED}, or "auto"', "")
    DURATION = (units.DURATION_ALLOWED, "_s")
    KEEP_ALIVE = (units.KEEP_ALIVE_ALLOWED, "_s")
    SPLIT = (SPLIT_ALLOWED, "")
    PATH = ("a path; relative to this file, ~ is the home folder", "")
    PATHS = ("a list of paths; relative to this file, ~ is the home folder", "")
    TEXTS = ("a list of strings", "")
    NAMES = ("a list of model names, without '?'", "")
    ADDRESSES = ('a list of "host:port"', "")
    ADDRESSES_OR_FLEET = ('a list of "host:port", or "fleet"', "")
    LISTEN = ("an address or a name, or a list of them", "")
    HOSTS = ("a list of host names, without a port", "")
    ORIGINS = ('a list of "scheme://host:port" with * for any part, "null" or "*"', "")
    MEMORY = ('"nvml", "nvml:PCI-BUS-ID", "nvml:UUID", "sysfs", "sysfs:CARD" or "ggml"', "")
    READY_PATH = ('a path of a URL such as "/health", or "none"', "")
    ENV = ('a table of strings; "$NAME" is the variable NAME of the proxy itself', "")
    PARAMS = ("a table of JSON values", "")

    def __init__(self, allowed: str, suffix: str) -> None:
        self.allowed = allowed
        self.suffix = suffix


COUNTS: Final = (Kind.COUNT, Kind.COUNT_OR_AUTO)


class Effect(StrEnum):
    """How a change of a key in a running proxy takes effect."""

    LIVE = "live"  # at once, on what runs
    RELOAD = "reload"  # a new backend is started and the old one finishes its answers
    RESTART = "restart"  # when the proxy is started again


@dataclass(frozen=True, slots=True)
class Field:
    """One key. `default` and `example` are written as in TOML; a default of None means "not set".

    `inherits` is the key whose value counts where this one is not set.
    `env` is the environment variable that gives the default; with `env_wins` it beats the file too.
    `local` keys are changed in the file itself and not over HTTP, unless `server.remote_policies`
    allows it: who sets one can run a program, read a file, or be let in or sent what others say.
    """

    key: str
    kind: Kind
    default: object
    effect: Effect
    help: str
    low: int = 0
    high: int = MAX_COUNT
    unit: str = ""
    choices: tuple[str, ...] = ()
    inherits: str = ""
    env: str = ""
    env_wins: bool = False
    example: object = None
    local: bool = False

    @property
    def path(self) -> tuple[str, ...]:
        return tuple(self.key.split("."))

    @property
    def attribute(self) -> str:
        """The name of this value in the dataclasses of `proxy.policy.model`."""
        return self.path[-1] + self.kind.suffix

    @property
    def allowed(self) -> str:
        """What may be given, for messages and for the reference page."""
        if self.kind is Kind.CHOICE:
            return ", ".join(f'"{choice}"' for choice in self.choices)
        if self.kind not in COUNTS:
            return self.kind.allowed
        upper = "up" if self.high == MAX_COUNT else f"to {self.high}"
        left_to_us = ', or "auto"' if self.kind is Kind.COUNT_OR_AUTO else ""
        return f"an integer from {self.low} {upper}{left_to_us}"
