"""Saved slots that wait for their model."""

from pathlib import Path

from proxy.engine.types import LoadOptions
from proxy.slots.shelf import Saved, Shelf


def saved(file: str, model: str = "m", size_bytes: int = 10) -> Saved:
    return Saved(file, LoadOptions(model, Path("m.gguf")), (), tokens=1, bytes=size_bytes)


def shelf(*saved: Saved) -> Shelf:
    made = Shelf()
    for one in saved:
        made.put(one)
    return made


def test_a_model_gets_its_own_the_last_saved_first() -> None:
    full = shelf(saved("a"), saved("b", "other"), saved("c"))

    assert [one.file for one in full.take("m")] == ["c", "a"]
    assert full.take("m") == []
    assert full.files() == {"b"}


def test_what_is_too_much_is_taken_off_the_oldest_first() -> None:
    full = shelf(saved("a"), saved("b"), saved("c"))

    assert full.trim(30, needed=set()) == []
    assert [one.file for one in full.trim(15, needed=set())] == ["a", "b"]
    assert full.files() == {"c"}


def test_what_is_needed_at_once_stays() -> None:
    full = shelf(saved("a"), saved("b", "other"))

    assert [one.file for one in full.trim(0, needed={"m"})] == ["b"]
    assert full.files() == {"a"}
