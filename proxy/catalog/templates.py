"""Whether a chat template is Jinja, which llama-server reads, or one of Ollama's Go templates; what
it has a place for; and whether it comes to an end.
"""

import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

Kind = Literal["jinja", "go", "text"]

# Go's actions begin with a field, a variable, or one of its words; Jinja has statements in {% %}.
_GO: Final = re.compile(
    r"\{\{-?\s*(?:[.$]|(?:if|else|end|range|with|template|block|define|break|continue|len|and|or|not"
    r"|eq|ne|lt|gt|le|ge|index|slice|json|print|printf|currentDate|toTypeScriptType)\b|/\*)"
)
TOOL_MARKS: Final = ("tools", "tool_call")
# What templates of models that think have in them: their tags, or the switch for it.
THINKING_MARKS: Final = ("</think>", "enable_thinking", "reasoning_effort", "[/THINK]")
# The longest real ones have 30 KB.
MAX_TEMPLATE: Final = 1 << 20
# The trial's word for a template that takes more time or memory than any real one.
TOO_MUCH: Final = 3
TRIAL_S: Final = 60.0
# What a long time can be made of, in a template that is not itself long.
_LABOUR: Final = re.compile(r"\brange\b|\*|\bmacro\b|\brecursive\b|\bfor\b(?s:.*\bfor\b){2}")
_SHORT: Final = 8192


def kind_of(template: str) -> Kind:
    """The language of a template; "text" for one that fills nothing in."""
    if "{%" in template:
        return "jinja"
    if _GO.search(template):
        return "go"
    return "jinja" if "{{" in template else "text"


def takes_tools(template: str) -> bool:
    """Whether it has a place for tools."""
    return any(mark in template for mark in TOOL_MARKS)


def thinks(template: str) -> bool:
    """Whether it is that of a model that thinks."""
    return any(mark in template for mark in THINKING_MARKS)


def problem_of_jinja(template: str) -> str | None:
    """Why this is not a Jinja template that can be used, or None where it is one. Blocking."""
    # Takes a while to import, and only creating a model needs it.
    import jinja2

    if len(template) > MAX_TEMPLATE:
        return "it is longer than any real template"
    try:
        environment().parse(template)
    except jinja2.TemplateSyntaxError as error:
        return f"it is not valid Jinja: line {error.lineno}: {error.message}"
    except RecursionError:
        return "it is nested too deep"
    except ValueError as error:  # a number of thousands of digits
        return str(error)
    return endless(template)


def endless(template: str) -> str | None:
    """Why a template would keep llama-server busy without end, or take all memory, when it loads
    the model; None where it does not. Blocking: what might is tried, for some seconds.
    """
    if len(template) > MAX_TEMPLATE:
        return "its chat template is longer than any real one"
    if not may_be_endless(template):
        return None
    try:
        trial = subprocess.run(
            (sys.executable, "-m", "proxy.catalog.template_trial"),
            input=template.encode("utf-8", "replace"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=TRIAL_S,
            check=False,
        )
    except OSError:
        return None  # no room for another process: not the template's fault
    except subprocess.TimeoutExpired:
        return "its chat template does not come to an end"
    if trial.returncode in (TOO_MUCH, -signal.SIGXCPU, -signal.SIGKILL):
        return "its chat template does not come to an end, or takes more memory than any real one"
    return None


def may_be_endless(template: str) -> bool:
    """Whether it has what a long time can be made of, and so has to be tried."""
    return len(template) > _SHORT or _LABOUR.search(template) is not None


def environment() -> "ImmutableSandboxedEnvironment":
    """Jinja as chat templates use it."""
    from jinja2.ext import Extension
    from jinja2.nodes import Node
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The block that chat templates mark an answer with."""

        tags = {"generation"}  # noqa: RUF012 - jinja2 wants it so

        def parse(self, parser: Parser) -> list[Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols", Generation])
