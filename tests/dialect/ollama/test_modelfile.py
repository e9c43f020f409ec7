"""The Modelfile that a model is shown with goes through `create` again."""

from dataclasses import replace
from pathlib import Path

import pytest

from proxy.catalog.entry import Entry, Message
from proxy.catalog.modelfile import parse_modelfile
from proxy.dialect.ollama.modelfile import modelfile, quoted

FILE = Path("/models/a b.gguf")
ENTRY = Entry("m", FILE, (FILE,), 1, 0.0)
TEXTS = (
    "brief",
    "two\nlines",
    ' "quoted" ',
    '"',
    'a "word"\n\nand more\n',
    "  spaces around\t",
    "trailing   \nspaces",
    "# no comment",
    "FROM is no command here\nFROM",
    "\u2028\x0c\x85",
    "it is\u2028one line",
    'ends with "',
    '"begins and ends"',
    "\\n",
)


@pytest.mark.parametrize("text", TEXTS)
def test_texts_come_back_as_they_were(text: str) -> None:
    entry = replace(
        ENTRY,
        system=text,
        template=text,
        template_file=Path("t"),
        licenses=(text, "second"),
        messages=(Message("user", text), Message("assistant", "x")),
    )

    found = parse_modelfile(modelfile("m", entry, {"stop": [text, "y"]}, has_template=False))

    assert found.sources == (str(FILE),)
    assert (found.system, found.template) == (text, text)
    assert found.licenses == (text, "second")
    assert found.messages == (Message("user", text), Message("assistant", "x"))
    assert found.parameters == {"stop": [text, "y"]}


def test_parameters_come_back_as_they_were() -> None:
    params = {"temperature": 0.5, "num_ctx": 4096, "use_mmap": True, "moe_cpu_layers": "0-3,7"}

    assert parse_modelfile(modelfile("m", ENTRY, params, has_template=True)).parameters == params


def test_nothing_is_said_that_nobody_has_set() -> None:
    """The file's own template is in the file."""
    lines = modelfile("m", ENTRY, {}, has_template=True).splitlines()

    assert [line for line in lines if line and not line.startswith("#")] == [f"FROM {FILE}"]
    assert "# FROM m:latest" in lines


def test_all_files_of_a_model() -> None:
    parts = (Path("/m-00001-of-00002.gguf"), Path("/m-00002-of-00002.gguf"))
    entry = replace(ENTRY, path=parts[0], files=parts, projector=Path("/mmproj.gguf"))
    entry = replace(entry, adapters=(Path("/lora.gguf"),))

    found = parse_modelfile(modelfile("m", entry, {}, has_template=False))

    assert found.sources == (*map(str, parts), "/mmproj.gguf")
    assert found.adapters == ("/lora.gguf",)


def test_a_template_that_could_not_be_taken_again() -> None:
    """In Go's language it does nothing here, and `create` takes it only where the file has one."""
    entry = replace(ENTRY, template="{{ .Prompt }}")

    assert parse_modelfile(modelfile("m", entry, {}, has_template=False)).template is None
    kept = parse_modelfile(modelfile("m", entry, {}, has_template=True)).template
    assert kept == "{{ .Prompt }}"


def test_a_model_without_a_file() -> None:
    assert parse_modelfile(modelfile("remote", None, {}, has_template=False)).sources == ("remote",)


@pytest.mark.parametrize(
    ("text", "written"),
    [("a", "a"), ('say "a"', 'say "a"'), ("a ", '"a "'), ("a\nb", '"a\nb"'), ("", '""')],
)
def test_quotes_stand_where_ollama_sets_them(text: str, written: str) -> None:
    assert quoted(text) == written
