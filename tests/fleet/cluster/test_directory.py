"""What a fleet knows in common, without Ray."""

import pytest

from proxy.fleet.cluster.directory import Directory, Report, Setup
from proxy.node.names import USABLE_NAME, usable_name


def directory(*names: str) -> Directory:
    made = Directory()
    made.make_key()
    for name in names:
        made.join(f"machine {name}", name)
        made.tell(Report(f"machine {name}", name, "ready", f"http://{name}:1"))
    return made


def test_a_machine_keeps_its_name_and_no_other_gets_it() -> None:
    made = directory()

    names = [made.join("1", "Box.example.org"), made.join("2", "box"), made.join("1", "other")]

    assert names == ["box", "box-2", "box"]


def test_a_name_that_a_machine_was_given_counts_more_than_its_own() -> None:
    made = directory()
    made.setup("1", Setup(name="left"))

    assert made.join("1", "box") == "left"


@pytest.mark.parametrize(
    "name", ["", "Ä", "-", "a" * 99, "a_b", "UPPER", "x" * 56 + "-", "127.0.0.1"]
)
def test_any_host_has_a_name_that_can_be_used(name: str) -> None:
    assert USABLE_NAME.fullmatch(usable_name(name) + "-99")


def test_members_are_those_with_an_address_and_tell_who_drains() -> None:
    made = directory("a", "b", "c")
    made.tell(Report("machine c", "c", "starting"))
    made.drain("b", draining=True)

    assert [(each.name, each.draining) for each in made.members().nodes] == [
        ("a", False),
        ("b", True),
    ]


def test_what_is_told_each_second_is_news_only_where_members_change() -> None:
    made = directory("a")
    before = made.version

    made.tell(Report("machine a", "a", "ready", "http://a:1", says="busy"))
    assert made.version == before

    made.tell(Report("machine a", "a", "ready", "http://a:2"))
    assert made.version > before


def test_who_was_on_a_machine_that_is_gone_is_no_member_and_its_name_is_free() -> None:
    made = directory("a", "b")
    before = made.version

    made.keep({"machine a"})

    assert [each.name for each in made.members().nodes] == ["a"]
    assert made.version > before
    assert made.join("another machine", "b") == "b"


def test_only_the_first_set_of_policies_is_taken() -> None:
    made = directory()

    assert made.seed({"p.toml": b"first"})
    assert not made.seed({"p.toml": b"second"})
    assert policies(made) == {"p.toml": b"first"}


def test_of_two_edits_the_later_one_counts_and_the_same_text_is_none() -> None:
    made = directory()
    made.seed({"p.toml": b"first"})

    first, second, again = (
        made.put("p.toml", b"1"),
        made.put("p.toml", b"2"),
        made.put("p.toml", b"2"),
    )

    assert first < second == again
    assert policies(made) == {"p.toml": b"2"}


def test_who_is_no_node_cannot_be_drained() -> None:
    with pytest.raises(LookupError, match="there is no node 'c' in this fleet; there is a, b"):
        directory("b", "a").drain("c", draining=True)


def test_one_that_is_begun_again_knows_all_that_it_is_told() -> None:
    old = directory("a", "b")
    old.seed({"p.toml": b"text"})
    old.drain("b", draining=True)
    old.setup("machine a", Setup(policies="/there"))

    new = Directory()
    assert new.key is None
    new.remind(old.news().memory)
    new.tell(Report("machine b", "b", "draining", "http://b:1"))

    assert new.key == old.key
    assert new.life != old.life
    assert new.news().memory.policies == old.news().memory.policies
    assert [each.name for each in new.members().nodes] == ["a", "b"]
    assert [each.draining for each in new.members().nodes] == [False, True]
    assert new.news().memory.setups == {"machine a": Setup(policies="/there")}


def test_what_was_told_before_a_new_beginning_counts_less_than_what_is_told_since() -> None:
    old = directory("a", "b", "c")

    new = Directory()
    new.tell(Report("machine b", "b", "ready", "http://b:2"))
    new.tell(Report("another machine", "c", "ready", "http://c:2"))
    new.remind(old.news().memory)
    new.keep({"machine a", "machine b", "another machine"})

    assert [each.url for each in new.members().nodes] == ["http://a:1", "http://b:2", "http://c:2"]


def test_of_what_several_remember_the_later_number_counts() -> None:
    old = directory()
    old.seed({"p.toml": b"1"})
    early = old.news().memory
    early_copy = Directory()
    early_copy.remind(early)  # a copy of what was known by then
    early = early_copy.news().memory
    old.put("p.toml", b"2")

    new = Directory()
    new.remind(early)
    new.remind(old.news().memory)

    assert policies(new) == {"p.toml": b"2"}


def test_an_edit_after_a_new_beginning_is_later_than_whatever_anybody_knows() -> None:
    """Who tells last may know of edits that the first one has not heard of."""
    old = directory()
    old.seed({"p.toml": b"1"})
    new = Directory()
    new.remind(old.news().memory)
    for number in range(20):
        old.put("p.toml", b"%d" % number)

    new.put("p.toml", b"newest")
    new.remind(old.news().memory)

    assert policies(new) == {"p.toml": b"newest"}


def test_another_fleets_memory_is_not_taken() -> None:
    new, other = directory(), directory()
    other.seed({"p.toml": b"theirs"})

    new.remind(other.news().memory)

    assert new.news().memory.policies is None


def policies(made: Directory) -> dict[str, bytes | None]:
    return {name: each.text for name, each in (made.news().memory.policies or {}).items()}


def test_what_is_said_of_a_machine_again_leaves_what_is_not_said() -> None:
    directory = Directory()
    directory.setup("1", Setup("n", "/p", "0.0.0.0", 1))
    directory.join("1", "host")
    version = directory.version

    assert directory.setup("1", Setup(host="0.0.0.0")) == Setup("n", "/p", "0.0.0.0", 1)
    assert directory.version == version
    # One that has a name keeps it.
    assert directory.setup("1", Setup("other", port=2)) == Setup("n", "/p", "0.0.0.0", 2)
    assert directory.version > version
