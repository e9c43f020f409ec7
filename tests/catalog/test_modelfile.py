import pytest

from proxy.catalog.entry import Message
from proxy.catalog.modelfile import ModelfileError, parse_modelfile

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
