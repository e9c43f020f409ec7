import pytest

from proxy.catalog.templates import kind_of, problem_of_jinja
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
    assert problem_of_jinja(text + "{% if %}") is not None
