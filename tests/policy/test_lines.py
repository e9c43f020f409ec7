import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.lines import MAX_DEPTH, TooDeepError, find_lines
from proxy.policy.problems import KeyPath, dotted

DOCUMENT = '''\
# a comment with [brackets] and "quotes
top = 1   # and = another

[server]
host = "a # b"
"quoted key" = 'its'

[models."gpt-oss:120b"] # the model
path = """
several
lines with \\""" and ""quotes"""""
aliases = [
  "one", # [
  # "two",
  'three',
]
params.temperature = 1.0
params.stop = { words = ["a",
  "b"], "x.y" = 1979-05-27 07:32:00 }

[[lists]]
a = []
[[lists]]
b = [[1, 2], { c = 3 }]
[ spaced . "out" ]
last = true'''


def test_lines_of_everything() -> None:
    tomli.loads(DOCUMENT)

    lines = find_lines(DOCUMENT)

    model: KeyPath = ("models", "gpt-oss:120b")
    assert lines == {
        ("top",): 2,
        ("server",): 4,
        ("server", "host"): 5,
        ("server", "quoted key"): 6,
        ("models",): 8,
        model: 8,
        (*model, "path"): 9,
        (*model, "aliases"): 12,
        (*model, "aliases", 0): 13,
        (*model, "aliases", 1): 15,
        (*model, "params"): 17,
        (*model, "params", "temperature"): 17,
        (*model, "params", "stop"): 18,
        (*model, "params", "stop", "words"): 18,
        (*model, "params", "stop", "words", 0): 18,
        (*model, "params", "stop", "words", 1): 19,
        (*model, "params", "stop", "x.y"): 19,
        ("lists",): 21,
        ("lists", "a"): 22,
        ("lists", "b"): 24,
        ("lists", "b", 0): 24,
        ("lists", "b", 0, 0): 24,
        ("lists", "b", 0, 1): 24,
        ("lists", "b", 1): 24,
        ("lists", "b", 1, "c"): 24,
        ("spaced",): 25,
        ("spaced", "out"): 25,
        ("spaced", "out", "last"): 26,
    }


@pytest.mark.parametrize(
    "value",
    ['""', "''", '""""""', "''''''", '"""a"\n"""', "'''\n'a''''", '"\\""', '"\\\\"', "'\\'",
     '"""\\\n  a"""', "1e5", "0xf", "nan", "07:32:00",
     "1979-05-27T07:32:00Z", "[ ]", "{ }", "[[], {}]", "[1,]", "[\n# ]\n]"],
)  # fmt: skip
def test_the_end_of_a_value_is_found(value: str) -> None:
    text = f"before = {value} # ]\nafter = {value}\nend = 0"
    tomli.loads(text)

    lines = find_lines(text)

    assert lines[("end",)] == text.count("\n") + 1


def test_too_deep_is_told_with_its_line() -> None:
    find_lines("a = " + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1))
    with pytest.raises(TooDeepError) as caught:
        find_lines("\n\na = " + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))

    assert caught.value.line == 3


KEYS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8)


@given(st.lists(KEYS, min_size=1, max_size=12, unique=True))
def test_every_key_is_on_its_line(keys: list[str]) -> None:
    values = ["1", '"#"', "[\n1,\n2]", '"""\n\n"""', "{ a = [] }", "'\"'"]
    text, expected = "", {}
    for index, key in enumerate(keys):
        expected[key] = text.count("\n") + 1
        text += f"{dotted((key,))} = {values[index % len(values)]}\n"
    assert set(tomli.loads(text)) == set(keys)

    lines = find_lines(text)

    assert {path[0]: line for path, line in lines.items() if len(path) == 1} == expected
