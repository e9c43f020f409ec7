"""What a hosted model's llama-server cannot be told, by policies or by the environment."""

import pytest

from tests.policy.conftest import LoadText, Valid

COMMAND = "engine = 'command'\ncommand = ['x', '{port}']"


def told(load_text: LoadText, text: str, **variables: str) -> list[str]:
    problems = load_text(text, **variables).problems
    return [f"{p.line} {p.key}: {p.message.partition(';')[0]}" for p in problems]


def test_args_are_refused_on_their_line(load_text: LoadText) -> None:
    text = """
[models."a:b"]
args = [
  "--jinja",
  "--sleep-idle-seconds", "60",
  "--n-cpu-moe", "3",
]
"""
    assert told(load_text, text) == [
        '5 models."a:b".args[1]: --sleep-idle-seconds is not for hosted models: it frees the model '
        "under experts that move",
        '6 models."a:b".args[3]: --n-cpu-moe is not for hosted models: it would change without a '
        "word what the proxy has planned",
    ]


def test_the_key_to_use_instead_is_named(load_text: LoadText) -> None:
    (problem,) = load_text("[models.a]\nargs = ['-c', '4096']").problems

    assert problem.message.endswith("; use ctx")


@pytest.mark.parametrize(
    "text",
    [
        f"[models.a]\nargs = ['--port', '1']\n{COMMAND}",
        f"[models.a]\nargs = ['--port', '1']\n[defaults]\n{COMMAND}",
        "[models.a]\nargs = ['--jinja', '--fit', 'off', '--device', 'CUDA0']",
    ],
)
def test_other_programs_and_other_args_are_not_looked_at(valid: Valid, text: str) -> None:
    valid(text)


def test_what_a_variant_has_of_its_base_is_told_once(load_text: LoadText) -> None:
    variant = "[models.v]\nbase = 'a'\nctx = 1024"
    assert [
        line[:19] for line in told(load_text, f"[models.a]\nargs = ['-hf', 'x']\n{variant}")
    ] == ["2 models.a.args[0]:"]

    hosted = (
        f"[models.a]\nargs = ['-hf', 'x']\n{COMMAND}\n[models.v]\nbase = 'a'\nengine = 'hosted'"
    )
    assert told(load_text, hosted) == [
        '7 models.v.engine: args of "a": -hf is not for hosted models: it would load another model '
        "than the one that was asked for, or overwrite its file"
    ]


def test_variables_are_refused_where_a_model_may_be_hosted(load_text: LoadText) -> None:
    (said,) = told(load_text, "", LLAMA_API_KEY="secret", LLAMA_ARG_PORT="1")
    assert said.startswith("None LLAMA_API_KEY: llama-server would take it for every hosted model")
    (problem,) = load_text("", LLAMA_API_KEY="secret").problems
    assert problem.file == "environment"
    assert "unset it for the proxy" in problem.message

    assert told(load_text, f"[defaults]\n{COMMAND}", LLAMA_API_KEY="secret") == []
    mixed = f"[defaults]\n{COMMAND}\n[models.a]\nengine = 'hosted'"
    assert len(told(load_text, mixed, LLAMA_API_KEY="secret")) == 1
