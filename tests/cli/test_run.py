"""`run`, and the commands that Ollama's users know, against a proxy in a process of its own; the
chat at a terminal (a pseudo-terminal)."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from proxy.cli.client import Client, ClientError
from proxy.cli.run import HELP, Chat, _print, obey
from tests.support.guard import HANG_S
from tests.support.models import model
from tests.support.policies import policies
from tests.support.served import Served, served

pytestmark = pytest.mark.llama
# As at a terminal: who is started in the background by a shell is deaf to Ctrl-C.
MAIN = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from proxy.cli.main import main; sys.exit(main(sys.argv[1:]))"
)
COMMAND = (sys.executable, "-c", MAIN)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    one = {"path": model(), "ctx": 256, "keep_alive": "1h"}
    dense = {"path": model("qwen3", layers=2)}
    folder = tmp_path_factory.mktemp("run")
    with served(folder, policies({"m": one, "dense": dense})) as address:
        yield address


def ran(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )


class Terminal:
    """A command at a terminal: what it wrote, and what is typed."""

    def __init__(self, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        os.set_blocking(self._ours, False)
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env=os.environ | {"TERM": "dumb"},
        )
        os.close(theirs)
        self.screen = ""

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def until(self, text: str, count: int = 1) -> None:
        end_s = time.monotonic() + HANG_S
        while self.screen.count(text) < count:
            assert time.monotonic() < end_s, self.screen
            try:
                self.screen += os.read(self._ours, 65536).decode()
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:  # nobody has the other end any more
                assert self.screen.count(text) >= count, self.screen

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@pytest.fixture
def terminal(proxy: Served) -> Iterator[Terminal]:
    terminal = Terminal("run", "m", "--url", proxy)
    yield terminal
    terminal.close()


def test_one_question(proxy: Served) -> None:
    told = ran("run", "m", "Say", "a word", "--url", proxy, "--moe-cpu-layers", "full")

    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.strip()
    (backend,) = Client(proxy).get("/admin/state")["backends"]
    assert backend["moe_cpu_layers"] == 12


def test_what_is_piped_in_goes_behind_the_question(proxy: Served) -> None:
    assert ran("run", "m", "--url", proxy, stdin="Say a word\n").stdout.strip()
    assert ran("run", "m", "Say", "--url", proxy, stdin="a word\n").stdout.strip()

    told = ran("run", "m", "--url", proxy)
    assert (told.returncode, told.stdout) == (1, "")
    assert "nothing to ask" in told.stderr


def test_a_model_that_is_not_there(proxy: Served) -> None:
    told = ran("run", "nobody", "Hi", "--url", proxy)

    assert (told.returncode, told.stdout) == (1, "")
    assert "nobody" in told.stderr
    assert "Traceback" not in told.stderr


def test_a_chat_at_a_terminal(terminal: Terminal) -> None:
    terminal.until(">>> ")
    terminal.type("/set num_predict 4\n")
    terminal.until(">>> ", 2)
    terminal.type("hello\n")
    terminal.until(">>> ", 3)
    terminal.type('"""two\n')
    terminal.until("... ")
    terminal.type('lines"""\n')
    terminal.until(">>> ", 4)
    terminal.type("/nonsense\n")
    terminal.until("forget the conversation")
    terminal.until(">>> ", 5)
    terminal.type("/bye\n")

    assert terminal.process.wait(HANG_S) == 0


def test_ctrl_c_stops_the_answer_and_not_the_chat(terminal: Terminal) -> None:
    terminal.until(">>> ")
    terminal.type("/set num_predict 4000\n")
    terminal.until(">>> ", 2)
    terminal.type("/set num_ctx 8192\n")  # so that it is not at its end by then
    terminal.until(">>> ", 3)
    terminal.type("tell me a long story\n")
    before = len(terminal.screen)
    terminal.until(" ", terminal.screen.count(" ") + 40)  # it is under way
    assert len(terminal.screen) > before

    terminal.process.send_signal(signal.SIGINT)

    terminal.until("(stopped)")
    terminal.until(">>> ", 4)
    terminal.type("\x04")
    assert terminal.process.wait(HANG_S) == 0


def test_what_was_said_is_remembered(proxy: Served) -> None:
    chat = Chat(Client(proxy), "m", {"num_predict": 3})

    said = "".join(piece for piece, _ in chat.ask("hello"))

    assert chat.messages == [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": said},
    ]
    obey(chat, "/clear")
    assert chat.messages == []


@pytest.mark.parametrize(
    ("order", "options"),
    [
        ("/set moe_cpu_layers 6", {"moe_cpu_layers": 6}),
        ("/set moe_cpu_layers auto", {"moe_cpu_layers": "auto"}),
        ("/set temperature 0.5", {"temperature": 0.5}),
        ("/set stop END", {"stop": "END"}),
        ("/set moe_cpu_layers lots", {}),
        ("/set", {}),
    ],
)
def test_orders(order: str, options: dict[str, object]) -> None:
    chat = Chat(Client("http://127.0.0.1:9"), "m", {})
    said = obey(chat, order)

    assert chat.options == options
    assert (said == HELP) == (order == "/set")


def test_a_model_of_which_nothing_moves_says_so(proxy: Served) -> None:
    chat = Chat(Client(proxy), "dense", {})

    assert "dense has no experts, so nothing of it moves" in obey(chat, "/set moe_cpu_layers 3")
    assert "dense_cpu_layers" in obey(chat, "/set moe_cpu_layers 3")
    assert chat.options == {}
    told = ran("run", "dense", "Hi", "--moe-cpu-layers", "3", "--url", proxy)
    assert (told.returncode, told.stdout) == (1, "")
    assert "no experts" in told.stderr


# --- as people know it from Ollama ---


def test_a_name_more_and_gone_again(proxy: Served) -> None:
    assert ran("cp", "m", "mine", "--url", proxy).stdout == "mine is another name for m now\n"
    assert "mine" in ran("list", "--url", proxy).stdout
    assert ran("rm", "mine", "--url", proxy).stdout == "removed mine\n"
    assert "mine" not in ran("ls", "--url", proxy).stdout

    told = ran("rm", "mine", "--url", proxy)
    assert (told.returncode, told.stdout) == (1, "")
    assert "mine" in told.stderr


def test_of_several_that_are_removed_one_is_not_there(proxy: Served) -> None:
    ran("cp", "m", "one", "--url", proxy)
    ran("cp", "m", "two", "--url", proxy)

    told = ran("rm", "one", "nobody", "two", "--url", proxy)

    assert (told.returncode, told.stdout) == (1, "removed one, two\n")
    assert "nobody" in told.stderr


def test_stop_unloads(proxy: Served) -> None:
    ran("load", "m", "--url", proxy)

    assert ran("stop", "m", "--url", proxy).stdout == "unloaded 1 backend\n"


def test_logs(proxy: Served) -> None:
    ran("load", "m", "--url", proxy)

    assert "b1: " in ran("logs", "m", "--url", proxy).stdout
    with subprocess.Popen(
        [*COMMAND, "logs", "-f", "--url", proxy],
        stdout=subprocess.PIPE,
        text=True,
    ) as following:
        assert following.stdout is not None
        assert following.stdout.readline().startswith("b1: ")
        following.send_signal(signal.SIGINT)
        assert following.wait(HANG_S) == 130


def test_ps_goes_on(proxy: Served) -> None:
    with subprocess.Popen(
        [*COMMAND, "ps", "--watch", "--json", "--url", proxy],
        stdout=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        decoder, text, seen = json.JSONDecoder(), "", 0
        while seen < 2:
            text += watching.stdout.readline()
            try:
                _, end = decoder.raw_decode(text)
            except ValueError:
                continue
            text, seen = text[end:].lstrip(), seen + 1
        watching.send_signal(signal.SIGINT)
        assert watching.wait(HANG_S) == 130


# --- what a model says, at a terminal ---


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, *lines: object) -> str:
    """What a terminal gets of an answer that came in these lines."""

    def answered(*_: object, **__: object) -> Iterator[bytes]:
        return (json.dumps(line).encode() for line in lines)

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(Client, "lines", answered)
    monkeypatch.setattr("sys.stdout", screen := Screen())
    with suppress(ClientError):
        _print(Chat(Client("http://127.0.0.1:9"), "m", {}), "Hi")
    return screen.getvalue()


def test_it_gives_the_terminal_no_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as to put something into the clipboard."""
    said = "one\n\ttwo\x1b]52;c;aGk=\x07\x9b2J\r."

    assert shown(monkeypatch, {"message": {"content": said}}) == "one\n\ttwo�]52;c;aGk=��2J�.\n"


@pytest.mark.parametrize("end", [[], [{"error": "it died"}]])
def test_the_colour_of_a_thought_ends_with_the_answer(
    monkeypatch: pytest.MonkeyPatch, end: list[object]
) -> None:
    thought = {"message": {"thinking": "hm"}}

    assert shown(monkeypatch, thought, *end) == "\x1b[2mhm\x1b[0m\n"
