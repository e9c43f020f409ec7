"""Tells a model's thoughts from its answer in plain completions, where the engine does not: those
that go on from an earlier answer's `context`. Pure.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from proxy.dialect.ollama.events import Event, Finish, Logprob, Text


@dataclass(frozen=True, slots=True)
class Marks:
    """How a family of templates marks thoughts.

    `turns`: what stands in the text -> whether thoughts follow, or the answer, or (None) neither
    is told. `tokens`: which of its tokens engines would keep to themselves.
    """

    turns: tuple[tuple[str, bool | None], ...] = ()
    tokens: tuple[str, ...] = ()

    def open_at_end(self, prompt: str) -> bool:
        """Whether the template has begun the thoughts itself, so that the model goes on in them."""
        opens = tuple(mark for mark, thinks in self.turns if thinks)
        return bool(opens) and prompt.rstrip().endswith(opens)

    def closing(self, prompt: str) -> str:
        """What ends the thoughts that a prompt has begun, where they are to be left out."""
        ends = [mark for mark, thinks in self.turns if thinks is False]
        return f"{ends[0]}\n\n" if self.open_at_end(prompt) else ""


NO_MARKS: Final = Marks()
FAMILIES: Final = (
    Marks(
        (
            ("<|channel|>final<|message|>", False),
            ("<|channel|>analysis<|message|>", True),
            ("<|channel|>commentary<|message|>", False),
            ("<|end|>", None),
            ("<|start|>assistant", None),
        ),
        ("<|channel|>", "<|message|>", "<|end|>", "<|start|>"),
    ),
    Marks((("[/THINK]", False), ("[THINK]", True)), ("[THINK]", "[/THINK]")),
    Marks((("</think>", False), ("<think>", True)), ("<think>", "</think>")),
)


def marks_of(template: str) -> Marks:
    """The marks of the family that a chat template belongs to; without any where it has none."""
    for family in FAMILIES:
        if any(mark in template for mark, thinks in family.turns if thinks is not None):
            return family
    return NO_MARKS


def telling_apart(
    read: Callable[[bytes], list[Event]], marks: Marks, *, thinks: bool
) -> Callable[[bytes], list[Event]]:
    """Reads as `read` does, with the thoughts told apart. For one answer: it remembers where it is.

    `thinks`: whether the answer begins in the middle of thoughts.
    """
    if not marks.turns:
        return read
    teller = _Teller(marks, thinks=thinks)

    def tell(data: bytes) -> list[Event]:
        return [told for event in read(data) for told in teller.tell(event)]

    return tell


class _Teller:
    def __init__(self, marks: Marks, *, thinks: bool) -> None:
        self._marks = marks
        # What changes:
        self._thinks = thinks
        self._held = ""  # may be the beginning of a mark, or the blanks before one
        self._said = False  # something since the last mark; before it blanks are nothing
        self._answers = False  # the answer has begun, and what looks like a mark is part of it

    def tell(self, event: Event) -> Iterator[Event]:
        if isinstance(event, Text):
            content, thinking = self._feed(event.content)
            logprobs: tuple[Logprob, ...] = event.logprobs
            if content or thinking or logprobs:
                yield Text(content, thinking, logprobs)
            return
        if isinstance(event, Finish) and self._held:
            rest, self._held = self._held, ""
            content, thinking = self._say(rest)
            yield Text(content, thinking)
        yield event

    def _feed(self, text: str) -> tuple[str, str]:
        """What of the answer and of the thoughts has become certain."""
        said = {True: "", False: ""}
        self._held += text
        while not self._answers and (found := self._next_mark()) is not None:
            at, mark, thinks = found
            before = self._held[:at].rstrip()
            if before and not self._thinks:
                self._answers = True
                break
            self._take(said, before)
            self._held = self._held[at + len(mark) :]
            self._said = False
            self._thinks = self._thinks if thinks is None else thinks
        sure = len(self._held) if self._answers else self._sure()
        ready, self._held = self._held[:sure], self._held[sure:]
        self._take(said, ready)
        if self._answers:
            rest, self._held = self._held, ""
            self._take(said, rest)
        return said[False], said[True]

    def _take(self, said: dict[bool, str], text: str) -> None:
        content, thinking = self._say(text)
        said[False] += content
        said[True] += thinking

    def _say(self, text: str) -> tuple[str, str]:
        text = text if self._said else text.lstrip()
        self._said = self._said or bool(text)
        self._answers = self._answers or (bool(text) and not self._thinks)
        return ("", text) if self._thinks else (text, "")

    def _next_mark(self) -> tuple[int, str, bool | None] | None:
        places = ((self._held.find(mark), mark, thinks) for mark, thinks in self._marks.turns)
        return min((place for place in places if place[0] >= 0), default=None)

    def _sure(self) -> int:
        """How much of what is held cannot belong to a mark, nor be blanks before one."""
        held = self._held
        for at in range(len(held)):
            if any(mark.startswith(held[at:].lstrip()) for mark, _ in self._marks.turns):
                return at
        return len(held)
