"""Whether a chat template is Jinja, which llama-server reads, or one of Ollama's Go templates."""

import re
from typing import Final, Literal

Kind = Literal["jinja", "go", "text"]

# Go's actions begin with a field, a variable, or one of its words; Jinja has statements in {% %}.
_GO: Final = re.compile(
    r"\{\{-?\s*(?:[.$]|(?:if|else|end|range|with|template|block|define|break|continue|len|and|or|not"
    r"|eq|ne|lt|gt|le|ge|index|slice|json|print|printf|currentDate|toTypeScriptType)\b|/\*)"
)


def kind_of(template: str) -> Kind:
    """The language of a template; "text" for one that fills nothing in."""
    if "{%" in template:
        return "jinja"
    if _GO.search(template):
        return "go"
    return "jinja" if "{{" in template else "text"


def problem_of_jinja(template: str) -> str | None:
    """Why this is not a Jinja template, or None where it is one."""
    # Takes a while to import, and only creating a model needs it.
    import jinja2
    from jinja2.ext import Extension
    from jinja2.nodes import Node
    from jinja2.parser import Parser

    class Generation(Extension):
        """The block that chat templates mark an answer with."""

        tags = {"generation"}  # noqa: RUF012 - jinja2 wants it so

        def parse(self, parser: Parser) -> list[Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols", Generation])
    try:
        environment.parse(template)
    except jinja2.TemplateSyntaxError as error:
        return f"line {error.lineno}: {error.message}"
    return None
