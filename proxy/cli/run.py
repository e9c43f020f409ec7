"""The command `run`: a chat with a model in the terminal, or one question and its answer."""

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from typing import Any, Final
from urllib.parse import quote

from proxy.cli.admin import client_of
from proxy.cli.bars import PLAIN, in_colour
from proxy.cli.client import Client, ClientError
from proxy.cli.loading import waiting_for
from proxy.cli.output import FAILED, OK, info
from proxy.errors import BadRequest
from proxy.split import parse_split, plain
from proxy.text import harmless

FENCE: Final = '"""'
DIM: Final = "\033[2m"
HELP: Final = f"""\
  /set moe_cpu_layers N|auto|none|partial|full   where the experts are from the next answer on
  /set system TEXT                               what the model is told before it all
  /set NAME VALUE                                any of Ollama's options: temperature, num_ctx, ...
  /clear                                         forget the conversation
  /bye                                           leave (also Ctrl-D)
{FENCE} begins and ends a message of several lines. Ctrl-C stops the answer."""


FIXED: Final = (
    "{model} has no experts, so nothing of it moves; dense_cpu_layers in its policy lets its "
    "feed-forward weights move"
)


class Chat:
    """A conversation with one model."""

    def __init__(self, client: Client, model: str, options: dict[str, Any]) -> None:
        self._client, self._model = client, model
        # What changes: what was said, and what is asked for with each answer.
        self.options = options
        self.system = ""
        self.messages: list[dict[str, str]] = []

    def waiting(self) -> AbstractContextManager[Callable[[], None]]:
        """Within the block people are told how it stands, until what is given is called."""
        return waiting_for(self._client, self._model)

    def why_fixed(self) -> str | None:
        """Why the model can have no other split; None where it can, or nobody says."""
        with suppress(ClientError, KeyError, TypeError):
            told = self._client.get(f"/v1/models/{quote(self._model, safe='/:')}")
            if told["meta"]["moe_cpu_layers"] is None:
                return FIXED.format(model=self._model)
        return None

    def ask(self, text: str) -> Iterator[tuple[str, bool]]:
        """The pieces of the answer, and whether each is a thought. What was said stays in the
        conversation, also where the answer was stopped; a question that is refused does not.
        Raises ClientError."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        asked = {"role": "user", "content": text}
        body = {
            "model": self._model,
            "messages": [*system, *self.messages, asked],
            "options": self.options,
            "stream": True,
        }
        said = ""
        try:
            for line in self._client.lines("POST", "/api/chat", json.dumps(body).encode()):
                event = json.loads(line)
                if "error" in event:
                    raise ClientError(str(event["error"]))
                message = event.get("message", {})
                if thought := message.get("thinking"):
                    yield thought, True
                if piece := message.get("content"):
                    said += piece
                    yield piece, False
        except ValueError as error:
            raise self._client.not_ours() from error
        finally:
            if said:
                self.messages += [asked, {"role": "assistant", "content": said}]


def run(arguments: Namespace) -> int:
    """`run MODEL [PROMPT...]`. What is piped in is the prompt, or goes behind it."""
    options: dict[str, Any] = {}
    if arguments.moe_cpu_layers is not None:
        options["moe_cpu_layers"] = plain(arguments.moe_cpu_layers)
    chat = Chat(client_of(arguments), arguments.model, options)
    chat.system = arguments.system or ""
    if options and (why := chat.why_fixed()):
        raise ClientError(why)
    prompt = " ".join(arguments.prompt)
    if not sys.stdin.isatty():
        prompt = "\n\n".join(part for part in (prompt, sys.stdin.read().strip()) if part)
    if prompt:
        _print(chat, prompt)
        return OK
    if not sys.stdin.isatty():
        info("moe-proxy run: there is nothing to ask")
        return FAILED
    return _talk(chat)


def _talk(chat: Chat) -> int:
    with suppress(ImportError):
        import readline  # noqa: F401 - input() has a history with it
    print("/help says what there is besides messages; /bye ends it.")
    while True:
        try:
            text = _read()
        except EOFError:
            print()
            return OK
        except KeyboardInterrupt:
            print("\n(Ctrl-D or /bye ends it)")
            continue
        if text == "/bye":
            return OK
        try:
            if text.startswith("/"):
                print(obey(chat, text))
            elif text:
                _print(chat, text)
        except ClientError as error:
            print(f"  {error}")
        except KeyboardInterrupt:
            print("  (stopped)")


def _read() -> str:
    text = input(">>> ").strip()
    if not text.startswith(FENCE):
        return text
    text = text.removeprefix(FENCE)
    while FENCE not in text:
        text += "\n" + input("... ")
    return text.partition(FENCE)[0].strip()


def obey(chat: Chat, order: str) -> str:
    """Do what a line with a slash asks for; returns what there is to say."""
    match order.split(maxsplit=2):
        case ["/clear"]:
            chat.messages.clear()
            return "  forgotten"
        case ["/set", "system", text]:
            chat.system = text
            return "  from the next answer on"
        case ["/set", "moe_cpu_layers", value]:
            if why := chat.why_fixed():
                return f"  {why}"
            try:
                chat.options["moe_cpu_layers"] = plain(parse_split(_value(value)))
            except BadRequest as error:
                return f"  {error.message}"
            return "  from the next answer on"
        case ["/set", name, value]:
            chat.options[name] = _value(value)
            return "  from the next answer on"
        case _:
            return HELP


def _value(text: str) -> Any:
    """As JSON reads it, where it can; else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _print(chat: Chat, prompt: str) -> None:
    colours = in_colour(sys.stdout)
    at_terminal = sys.stdout.isatty()
    thinking = began = False
    try:
        with chat.waiting() as over:
            for piece, is_thought in chat.ask(prompt):
                over()
                if colours and is_thought != thinking:
                    print(DIM if is_thought else f"{PLAIN}\n", end="")
                thinking, began = is_thought, True
                print(harmless(piece) if at_terminal else piece, end="", flush=True)
    except (ClientError, KeyboardInterrupt) as error:
        if began or isinstance(error, KeyboardInterrupt):
            print(PLAIN if colours and thinking else "")  # what is said of it has its own line
        raise
    print(PLAIN if colours and thinking else "")
