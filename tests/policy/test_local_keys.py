"""Which edits change keys that are changed in their file alone."""

from pathlib import Path

import pytest

from proxy.policy.fields import FIELDS
from proxy.policy.local_keys import local_changes
from proxy.policy.reference import literal
from proxy.policy.schema import Field, Kind

FILE = Path("/policies/a.toml")
# Kinds whose values name files, programs or other machines: whatever has one is dangerous.
DANGEROUS_KINDS = {
    Kind.PATH,
    Kind.PATHS,
    Kind.TEXTS,
    Kind.ADDRESSES,
    Kind.ADDRESSES_OR_FLEET,
    Kind.HOSTS,
    Kind.ORIGINS,
    Kind.ENV,
}
# Others that are: who may come in, and what switches a danger on.
DANGEROUS_NAMES = {
    "host",
    "port",
    "engine",
    "remote_policies",
    "unsafe_args",
    "backends",
    "confine",
}
# Free text that only names a model.
HARMLESS_TEXTS = {"models.*.base"}
LOCAL = [field for field in FIELDS if field.local]


def changes(old: str, new: str) -> list[tuple[int | None, str]]:
    found = local_changes(FILE, old.encode(), new.encode())
    assert {problem.file for problem in found} <= {str(FILE)}
    return [(problem.line, problem.key) for problem in found]


def line_of(field: Field) -> str:
    value = field.example if field.default in (None, [], {}) else field.default
    if field.inherits and value is None:
        value = "x"
    return f"{field.key.replace('*', 'NAME')} = {literal(value)}\n"


def test_every_key_that_can_do_harm_is_marked() -> None:
    dangerous = {
        field.key
        for field in FIELDS
        if field.kind in DANGEROUS_KINDS
        or field.path[-1] in DANGEROUS_NAMES
        or (field.kind is Kind.TEXT and field.key not in HARMLESS_TEXTS)
    }

    assert dangerous == {field.key for field in LOCAL}


def test_a_key_for_one_model_is_marked_as_its_default_is() -> None:
    marks = {field.key: field.local for field in FIELDS}

    assert {f.key for f in FIELDS if f.inherits and f.local is not marks[f.inherits]} == set()


@pytest.mark.parametrize("field", LOCAL, ids=lambda field: field.key)
def test_setting_and_removing_it_is_found_and_keeping_it_is_not(field: Field) -> None:
    key, line = field.key.replace("*", "NAME"), line_of(field)

    assert changes("", "\n" + line) == [(2, key)]
    assert changes(line, "# gone\n") == [(1, key)]
    assert changes(line, "\n# edited elsewhere\nserver.max_queue = 9\n" + line) == []


@pytest.mark.parametrize("field", LOCAL, ids=lambda field: field.key)
def test_it_is_the_same_below_a_node_of_whichever_machine(field: Field) -> None:
    key, line = f"nodes.attic.{field.key.replace('*', 'NAME')}", f"nodes.attic.{line_of(field)}"

    assert changes("", "\n" + line) == [(2, key)]
    assert changes(line, "# gone\n") == [(1, key)]
    assert changes(line, line + "\nnodes.attic.server.max_queue = 9\n") == []
    assert changes(line, line.replace("attic", "cellar")) == [
        (1, key.replace("attic", "cellar")),
        (1, key),
    ]


def test_only_what_changes_is_found_wherever_it_stands() -> None:
    old = """
[defaults]
engine = "command"
command = ["serve", "{port}"]
[models.big]
path = "big.gguf"
[models.small]
base = "big"
args = ["--a"]
"""
    new = """
[defaults]
engine = "command"
command = ["sh", "-c", "{port}"]
[models.big]
path = "big.gguf"
ctx = 7
[models.small]
base = "big"
[models.other]
engine = "command"
"""

    assert changes(old, new) == [
        (4, "defaults.command"),
        (11, "models.other.engine"),
        (9, "models.small.args"),
    ]


def test_a_name_that_moves_takes_its_keys_along() -> None:
    assert changes("models.a.path = 'x'", "models.b.path = 'x'") == [
        (1, "models.b.path"),
        (1, "models.a.path"),
    ]


def test_what_cannot_be_read_is_never_replaced_unseen() -> None:
    """It may hold `api_keys_file`, without which everybody would be let in."""
    (problem,) = local_changes(
        FILE, b"[server]\napi_keys_file = 'keys'\n[", b"server.max_queue = 1"
    )

    assert "cannot be read" in problem.message


@pytest.mark.parametrize("text", ["[", "server.prot = 1", "[[models]]"])
def test_a_text_that_is_never_written_changes_nothing(text: str) -> None:
    assert changes("models.a.path = 'x'", text) == []


def test_a_value_that_is_not_allowed_is_a_change_too() -> None:
    assert changes("", "server.port = 'x'") == [(1, "server.port")]


def test_the_way_to_allow_it_is_told() -> None:
    (problem,) = local_changes(FILE, b"", b"engine.libdir = 'x'")

    assert str(problem).startswith("/policies/a.toml:1: engine.libdir: cannot be set over HTTP")
    assert "server.remote_policies" in problem.message
