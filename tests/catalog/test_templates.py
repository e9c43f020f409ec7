import pytest

from proxy.catalog.templates import endless, kind_of, problem_of_jinja
from tests.support.archive import template


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("{{ .Prompt }}", "go"),
        ("{{- if .System }}x{{ end }}", "go"),
        ("{{ range $i, $m := .Messages }}", "go"),
        ("{{ bos_token }}{% for m in messages %}{% endfor %}", "jinja"),
        ("{{ messages[0].content }}", "jinja"),
        ("{{ endpoint }}", "jinja"),
        ("Answer briefly.", "text"),
    ],
)
def test_kinds(text: str, kind: str) -> None:
    assert kind_of(text) == kind


@pytest.mark.parametrize("name", ["Qwen-Qwen3-0.6B", "openai-gpt-oss-120b"])
def test_real_templates_are_jinja(name: str) -> None:
    text = template(name)

    assert kind_of(text) == "jinja"
    assert problem_of_jinja(text) is None
    assert endless(text) is None
    assert problem_of_jinja(text + "{% if %}") is not None


@pytest.mark.parametrize(
    "text",
    [
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{% if a %}" * 3000 + "{% endif %}" * 3000,
        "{{ " + "1" * 5000 + " }}",
        "{{" * 100_000,
        "{{ a }}" + " " * (1 << 20),
    ],
)
def test_what_cannot_be_read_is_told(text: str) -> None:
    assert problem_of_jinja(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        "{% for i in range(1000000000) %}{{ i }}{% endfor %}",
        "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
        "{% if tools %}{% for i in range(10**9) %}{% endfor %}{% endif %}",
        "{% set x = 'a' * 10**10 %}{{ x }}",
        "{% set x = 'a' * 10**8 %}{{ x }}",
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "".join(f"{{% for a{i} in '{'x' * 100}' %}}" for i in range(9)) + "{% endfor %}" * 9,
    ],
)
def test_a_template_without_an_end_is_told(text: str) -> None:
    assert "does not come to an end" in (problem_of_jinja(text) or "")


@pytest.mark.parametrize(
    "text",
    [
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        "{% for i in range(10) %}{{ messages[i].content }}{% endfor %}",
        "{% macro f(x) %}{{ x }}{% endmacro %}{{ f(1) }}{{ lacking.here() }}",
    ],
)
def test_others_are_not(text: str) -> None:
    assert endless(text) is None
