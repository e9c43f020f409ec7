"""Environment variables that stand for policy keys, Ollama's own in Ollama's meaning."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy.node.names import NODE_VARIABLE, USABLE_NAME
from proxy.policy.fields import FIELDS
from proxy.policy.nodes import NAME_ALLOWED, node_of
from proxy.policy.problems import ENVIRONMENT, KeyPath, Problem
from proxy.policy.schema import COUNTS, Field, Kind
from proxy.policy.values import Folders, convert, home_of, refusal

HOST_ALLOWED = 'an address such as "0.0.0.0", "127.0.0.1:8080", "[::1]:8080" or ":8080"'
_DEFAULT_PORTS = {"": 11434, "http": 80, "https": 443}


@dataclass(slots=True)
class Environment:
    """Converted values by the dotted key they are for; `wins` are those that beat the files."""

    defaults: dict[str, Any] = field(default_factory=dict)
    wins: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def read_environment(env: Mapping[str, str]) -> Environment:
    """What `env` says about the policies. Empty variables count as not set."""
    found = Environment()
    folders = Folders(Path.cwd(), home_of(env))
    for row in FIELDS:
        # Ollama takes values with blanks and quotes around them, which service files leave there.
        text = env.get(row.env, "").strip().strip("\"'")
        if not text or row.env == "OLLAMA_HOST":
            continue
        if _left_to_us(row, text):
            continue

        def report(_: KeyPath, message: str, variable: str = row.env) -> None:
            found.problems.append(Problem(ENVIRONMENT, None, variable, message))

        value = convert(row, _typed(row, text), folders, report)
        (found.wins if row.env_wins else found.defaults)[row.key] = value
    _read_host(env, found)
    if not USABLE_NAME.fullmatch(node := node_of(env)):
        found.problems.append(
            Problem(ENVIRONMENT, None, NODE_VARIABLE, refusal(node, NAME_ALLOWED))
        )
    return found


def parse_host(text: str) -> tuple[str, int]:
    """Host and port of an address in any form that OLLAMA_HOST takes; what is missing is Ollama's.

    Raises ValueError that says what is allowed.
    """
    scheme, separator, rest = text.strip().strip("\"'").partition("://")
    if not separator:
        scheme, rest = "", scheme
    address = rest.partition("/")[0]
    host, colon, port = address.rpartition(":")
    if not colon or _is_ip(address):
        host, port = address or "127.0.0.1", ""
    if scheme not in _DEFAULT_PORTS or (port and not (port.isascii() and port.isdecimal())):
        raise ValueError(HOST_ALLOWED)
    number = int(port) if port else _DEFAULT_PORTS[scheme]
    if number > 65535 or any(character.isspace() for character in host):
        raise ValueError(HOST_ALLOWED)
    # A port alone means every address.
    return host.strip("[]") or "0.0.0.0", number


def _read_host(env: Mapping[str, str], found: Environment) -> None:
    text = env.get("OLLAMA_HOST", "").strip().strip("\"'")
    if not text:
        return
    try:
        found.defaults["server.host"], found.defaults["server.port"] = parse_host(text)
    except ValueError as error:
        found.problems.append(Problem(ENVIRONMENT, None, "OLLAMA_HOST", refusal(text, str(error))))


def _left_to_us(row: Field, text: str) -> bool:
    """Whether the variable says "choose yourself": Ollama's 0 for context and parallel."""
    return row.key in ("defaults.ctx", "defaults.parallel") and text == "0"


def _typed(row: Field, text: str) -> object:
    if row.kind in COUNTS and text.isascii() and text.isdecimal() and len(text) < 20:
        return int(text)
    if row.kind is Kind.ORIGINS:
        return [origin.strip() for origin in text.split(",") if origin.strip()]
    return text


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True
