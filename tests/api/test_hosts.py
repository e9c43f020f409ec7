"""What a Host header may say, by table."""

from pathlib import Path

import pytest

from proxy.api import hosts
from proxy.api.hosts import is_ours, names_of, own_names, split_host

NAMES = frozenset({"box", "box.local", "llm.example.com"})


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("localhost", ("localhost", "")),
        ("LocalHost:11434", ("localhost", "11434")),
        ("localhost.:80", ("localhost", "80")),
        ("localhost:", ("localhost", "")),
        ("[::1]", ("::1", "")),
        ("[FE80::1%25eth0]:1", ("fe80::1", "1")),
        ("[fe80::1%eth0.1]", ("fe80::1", "")),
        ("::1", ("::1", "")),
        ("my_box-2.lan", ("my_box-2.lan", "")),
        ("", None),
        (".", None),
        ("a..b", None),
        ("localhost..", None),
        ("user@localhost", None),
        ("localhost:x", None),
        ("localhost:123456", None),
        ("localhost, evil.test", None),
        ("localhost evil.test", None),
        ("http://localhost", None),
        ("localhost/", None),
        ("[::1", None),
        ("::1]:80", None),
        ("évil.test", None),
        ("\udcff", None),
        ("a" * 70000, ("a" * 70000, "")),
    ],
)
def test_split_host(text: str, parts: tuple[str, str] | None) -> None:
    assert split_host(text) == parts


@pytest.mark.parametrize(
    "text",
    [
        "localhost",
        "LOCALHOST:1",
        "a.b.localhost:11434",
        "127.0.0.1:11434",
        "127.8.9.10",
        "127.1",
        "0.0.0.0:11434",
        "192.168.1.5",
        "8.8.8.8:80",
        "[::1]:11434",
        "[::]",
        "[fe80::1%25eth0]:11434",
        "[::ffff:127.0.0.1]",
        "::1",
        "box:11434",
        "Box.",
        "box.local",
        "llm.example.com:443",
        "host.docker.internal:11434",
    ],
)
def test_names_of_this_machine(text: str) -> None:
    assert is_ours(text, NAMES)


@pytest.mark.parametrize(
    "text",
    [
        "evil.test",
        "evil.test:11434",
        "localhost.evil.test",
        "evillocalhost",
        "notbox",
        "box.evil.test",
        "evil.local",
        "evil.internal",
        "127.0.0.1.evil.test",
        "127.0.0.1@evil.test",
        "evil.test@127.0.0.1",
        "evil.test#localhost",
        "[evil.test]",
        "[::1].evil.test",
        "1.2.3.4.5",
        "0xbad.test",
        "localhost, localhost",
    ],
)
def test_names_of_others(text: str) -> None:
    assert not is_ours(text, NAMES)


def test_a_machine_has_its_name_short_and_long_and_the_one_it_listens_on() -> None:
    hosts_file = """
127.0.0.1 localhost
127.0.1.1 Box.example.com box  # ours
10.0.0.9  other other.example.com
0.0.0.0   box-ads.evil.test
"""

    assert names_of("Box", hosts_file, "llm.lan") == {
        "box",
        "box.local",
        "box.example.com",
        "llm.lan",
    }
    assert {"llm.lan", "127.0.0.1", "::1"} < names_of("box", "", "LLM.lan, 127.0.0.1, [::1]")
    assert names_of("box.example.com", "", "::") == {"box.example.com", "box", "box.local", "::"}


def test_without_a_hosts_file_there_is_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "HOSTS_FILE", tmp_path / "none")
    monkeypatch.setattr("socket.gethostname", lambda: "box")

    assert own_names("127.0.0.1") == {"box", "box.local", "127.0.0.1"}


@pytest.mark.parametrize("text", ["::1%\udcff", "1::%\0", "[::1%\udcff]", "\udcff", "\0"])
def test_what_is_no_text_is_looked_at_too(text: str) -> None:
    assert is_ours(text, frozenset()) is text.startswith(("::1", "1::"))
