"""The policies in force, while files are edited."""

import asyncio
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from structlog.testing import capture_logs

from proxy.observe.events import EventLog
from proxy.policy.diff import Changes
from proxy.policy.fields import FIELDS
from proxy.policy.live import LivePolicies
from proxy.policy.load import load
from proxy.policy.model import Policies
from proxy.policy.schema import Effect, Field, Kind
from tests.policy.conftest import LoadText
from tests.support.guard import HANG_S

AT_START = [field for field in FIELDS if field.effect is Effect.RESTART]
OTHER = {Kind.LISTEN: "'0.0.0.0'", Kind.COUNT: "1", Kind.PATH: "'/elsewhere'"}


class Heard:
    """A listener, and what it was told of."""

    def __init__(self) -> None:
        self.changes: list[Changes] = []

    async def __call__(self, old: Policies, new: Policies, changes: Changes) -> None:
        self.changes.append(changes)


def value_of(policies: Policies, field: Field) -> Any:
    return getattr(getattr(policies, field.path[0]), field.attribute)


@pytest.mark.parametrize("field", AT_START, ids=[field.key for field in AT_START])
async def test_what_applies_at_the_next_start_stays_as_it_is_and_is_told(
    load_text: LoadText, field: Field
) -> None:
    events = EventLog()
    live = LivePolicies(load_text(""), events=events)
    before, heard = value_of(live.current, field), Heard()
    live.subscribe(heard)

    await live.take(load_text(f"{field.key} = {OTHER[field.kind]}\nserver.max_queue = 7"))

    assert value_of(live.current, field) == before
    assert live.current.server.max_queue == 7
    assert live.to_json()["waiting_for_restart"] == [field.key]
    assert list(heard.changes[0].keys) == ["server.max_queue"]
    waits = [event for event in events.since(0) if event.kind == "policies_wait_for_restart"]
    assert [event.fields for event in waits] == [{"keys": [field.key]}]


async def test_what_waits_for_a_restart_is_told_once_and_until_it_is_edited_back(
    load_text: LoadText,
) -> None:
    events = EventLog()
    live = LivePolicies(load_text("server.port = 1"), events=events)

    await live.take(load_text("server.port = 2\ncatalog.state = '/x'"))
    await live.take(load_text("server.port = 2\ncatalog.state = '/x'\ndefaults.ctx = 5"))
    await live.take(load_text("server.port = "))
    assert live.waiting == ("server.port", "catalog.state"), "the last good ones say so"
    await live.take(load_text("server.port = 3"))
    await live.take(load_text("server.port = 1"))

    told = [e.fields["keys"] for e in events.since(0) if e.kind == "policies_wait_for_restart"]
    assert told == [["server.port", "catalog.state"], ["server.port"], []]
    assert live.to_json()["waiting_for_restart"] == []
    assert live.current.defaults.ctx == 8192


async def test_a_bad_set_changes_nothing_and_is_told(load_text: LoadText) -> None:
    events, heard = EventLog(), Heard()
    live = LivePolicies(load_text("defaults.ctx = 5"), events=events)
    live.subscribe(heard)

    await live.take(load_text("defaults.ctx = 'x'"))

    assert live.current.defaults.ctx == 5
    assert [problem["key"] for problem in live.to_json()["problems"]] == ["defaults.ctx"]
    assert [event.kind for event in events.since(0)] == ["policies_refused"]
    assert heard.changes == []


async def test_one_listener_that_fails_keeps_no_other_from_an_edit(load_text: LoadText) -> None:
    async def fails(old: Policies, new: Policies, changes: Changes) -> None:
        raise ValueError("a bug")

    live, heard = LivePolicies(load_text(""), events=EventLog()), Heard()
    for listener in (fails, heard):
        live.subscribe(listener)

    with capture_logs() as logs:
        await live.take(load_text("defaults.ctx = 5"))

    assert [list(changes.models) for changes in heard.changes] == [[]]
    assert [line["event"] for line in logs] == ["policies_changed", "policy_change_failed"]


async def test_an_edit_of_another_nodes_part_changes_nothing_here_and_says_so(
    load_text: LoadText,
) -> None:
    events, heard, env = EventLog(), Heard(), {"MOE_PROXY_NODE": "attic"}
    live = LivePolicies(load_text("nodes.cellar.defaults.ctx = 5", **env), events=events)
    live.subscribe(heard)
    before = live.current

    for text in (
        "nodes.cellar.defaults.ctx = 6\nnodes.new.models.m = {}",
        "nodes.cellar.defaults.ctx = 'x'",  # which is refused, and forgotten
        "nodes.cellar.defaults.ctx = 6\nnodes.new.models.m = {}\nnodes.attic.defaults.ctx = 7",
    ):
        await live.take(load_text(text, **env))

    told = [event.fields for event in events.since(0) if event.kind == "policies_changed"]
    assert [(each["nodes"], each["defaults"]) for each in told] == [
        (["cellar", "new"], []),
        ([], ["ctx"]),
    ]
    assert [bool(changes) for changes in heard.changes] == [False, True]
    assert live.current.defaults.ctx == 7
    assert before.defaults.ctx == 8192


def test_the_first_set_has_to_be_good(load_text: LoadText) -> None:
    with pytest.raises(ValueError, match="good"):
        LivePolicies(load_text("server.prot = 1"), events=EventLog())


async def test_it_follows_the_files_again_after_it_failed(
    tmp_path: Path, env: dict[str, str]
) -> None:
    """The edit at which it did is taken by the next try."""
    file = tmp_path / "policies.toml"
    file.write_text("defaults.ctx = 5")
    live = LivePolicies(load(file, env), events=EventLog())
    file.write_text("defaults.ctx = 6")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("proxy.policy.live.diff", Mock(side_effect=RecursionError))
        with pytest.raises(RecursionError):
            await live.follow(file, env)
    following = asyncio.create_task(live.follow(file, env))
    async with asyncio.timeout(HANG_S):
        while live.current.defaults.ctx != 6:
            await asyncio.sleep(0.01)
    following.cancel()


async def test_it_reads_the_files_when_it_is_told_to(tmp_path: Path, env: dict[str, str]) -> None:
    """Also where no word of a change comes."""
    file = tmp_path / "policies.toml"
    file.write_text("defaults.ctx = 5")
    live = LivePolicies(load(file, env), events=EventLog())

    await live.reread(file, env)
    assert live.generation == 1, "nothing has changed"
    file.write_text("defaults.ctx = 6")
    await live.reread(file, env)

    assert (live.generation, live.current.defaults.ctx) == (2, 6)
