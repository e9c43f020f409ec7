import pytest

from proxy.catalog.entry import Message
from proxy.catalog.modelfile import ModelfileError, decode_modelfile, parse_modelfile

WHOLE = '''\
\ufeff# A comment
FROM ./base.gguf
from qwen3:30b

PARAMETER moe_cpu_layers 24
PARAMETER num_cpu_moe full
PARAMETER num_ctx 16384
parameter temperature 0.7
PARAMETER stop "<|im_end|>"
PARAMETER stop User:
PARAMETER use_mmap False
PARAMETER mirostat 1
TEMPLATE """{% for m in messages %}
{{ m.content }}  # not a comment
{% endfor %}"""
SYSTEM "You are
Mario."
ADAPTER ./lora.gguf
MESSAGE user Is it "so"?
MESSAGE assistant """Yes,
it is."""
LICENSE """
free
"""
RENDERER qwen
'''


def test_everything() -> None:
    found = parse_modelfile(WHOLE)

    assert found.sources == ("./base.gguf", "qwen3:30b")
    assert found.parameters == {
        "moe_cpu_layers": -1,
        "num_ctx": 16384,
        "temperature": 0.7,
        "stop": ["<|im_end|>", "User:"],
        "use_mmap": False,
    }
    assert found.template is not None
    assert found.template.splitlines()[1] == "{{ m.content }}  # not a comment"
    assert found.system == "You are\nMario."
    assert found.adapters == ("./lora.gguf",)
    assert found.messages == (
        Message("user", 'Is it "so"?'),
        Message("assistant", "Yes,\nit is."),
    )
    assert found.licenses == ("\nfree\n",)
    assert len(found.notes) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SYSTEM x", "line 1: there is no FROM"),
        ("FROM a\nNONSENSE x", "line 2: 'NONSENSE' is no command"),
        ("FROM a\nFROMage x", "line 2: 'FROMAGE' is no command"),
        ("FROM", "line 1: FROM needs a value"),
        ("FROM a\n\nPARAMETER temperature hot", "line 3: temperature 'hot': a number"),
        ("FROM a\nPARAMETER temprature 1", "line 2: unknown parameter .* temperature"),
        ("FROM a\nPARAMETER moe_cpu_layers some", "line 2: moe_cpu_layers 'some': a number of"),
        ("FROM a\nPARAMETER num_ctx", "line 2: PARAMETER needs a name and a value"),
        ("FROM a\nMESSAGE robot hi", "line 2: 'robot' is no role"),
        ('FROM a\nSYSTEM """never\nends', 'line 2: """ is never closed'),
    ],
)
def test_errors_name_the_line(text: str, message: str) -> None:
    with pytest.raises(ModelfileError, match=message):
        parse_modelfile(text)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_of_other_systems(encoding: str) -> None:
    """`utf-16` writes its mark, as Windows does."""
    text = "FROM a\r\nSYSTEM Größe 🙂\r\n"

    found = parse_modelfile(decode_modelfile(text.encode(encoding)))

    assert (found.sources, found.system) == (("a",), "Größe 🙂")


def test_the_other_order_of_utf_16() -> None:
    assert decode_modelfile("\ufeffFROM a".encode("utf-16-be")) == "FROM a"


@pytest.mark.parametrize("data", [b"FROM \xff", b"\xff\xfeF"])
def test_what_is_no_text(data: bytes) -> None:
    with pytest.raises(UnicodeDecodeError):
        decode_modelfile(data)


@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r"])
def test_only_ends_of_lines_end_lines(inside: str) -> None:
    message = f'MESSAGE user """x{inside}y\r\nz"""\n'
    found = parse_modelfile(f"FROM a\r\nSYSTEM one{inside}two\n{message}")

    assert found.system == f"one{inside}two"
    assert found.messages == (Message("user", f"x{inside}y\nz"),)


@pytest.mark.parametrize("between", [" ", "\t", " \t  ", "\u00a0", "\u3000", "\x0c"])
def test_any_white_space_stands_between_words(between: str) -> None:
    lines = ("FROM a", "PARAMETER temperature 0.5", "PARAMETER stop x", "MESSAGE user hi")
    found = parse_modelfile("\n".join(line.replace(" ", between) for line in lines))

    assert found.sources == ("a",)
    assert found.parameters == {"temperature": 0.5, "stop": ["x"]}
    assert found.messages == (Message("user", "hi"),)


def test_white_space_inside_a_value_is_no_end_of_the_word_before() -> None:
    found = parse_modelfile("FROM a\nPARAMETER stop\tone two\nMESSAGE\tuser\tHow are you?")

    assert found.parameters == {"stop": ["one two"]}
    assert found.messages == (Message("user", "How are you?"),)
