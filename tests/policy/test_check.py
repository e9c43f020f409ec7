"""What a hosted model's llama-server cannot be told, by policies."""

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


def test_what_args_may_do_has_to_be_allowed_beside_them(load_text: LoadText) -> None:
    args = "args = ['--jinja', '--tools', 'all', '--of-the-next-version']"
    assert told(load_text, f"[models.a]\n{args}\n") == [
        "2 models.a.args[1]: --tools: whoever reaches the model runs programs and reads and writes "
        "files, by /upstream/.../tools",
        "2 models.a.args[3]: --of-the-next-version: nobody knows here what it does",
    ]
    (problem, _) = load_text(f"[models.a]\n{args}").problems
    assert problem.message.endswith("; models.a.unsafe_args = true allows it")

    allowed = load_text(f"[models.a]\n{args}\nunsafe_args = true\n")
    assert allowed.problems == ()
    assert [(note.line, note.key) for note in allowed.notes] == [
        (2, "models.a.args[1]"),
        (2, "models.a.args[3]"),
    ]
    assert allowed.notes[0].message.startswith("allowed by unsafe_args: --tools: whoever")
    # A program of the user's own may have what it takes.
    assert told(load_text, f"[models.a]\n{args}\n{COMMAND}") == []


def test_what_never_passes_is_not_allowed_either(load_text: LoadText) -> None:
    for option in ("--host", "--port", "--api-key", "--path", "--models-dir"):
        text = f"[models.a]\nargs = ['{option}', 'x']\nunsafe_args = true"
        (said,) = told(load_text, text)
        assert said.startswith(f"2 models.a.args[0]: {option} is not for hosted models")


def test_a_variant_may_what_its_base_may_unless_it_says_otherwise(load_text: LoadText) -> None:
    base = "[models.a]\nargs = ['--props']\nunsafe_args = true\n[models.v]\nbase = 'a'\n"
    assert told(load_text, base) == []
    assert [line[:25] for line in told(load_text, base + "unsafe_args = false\n")] == [
        "6 models.v.unsafe_args: a"
    ]


def test_variables_are_for_commands(load_text: LoadText, valid: Valid) -> None:
    env = "env = { GIVEN = '1', HF_TOKEN = '$HF_TOKEN' }\n"
    model = valid(f"[models.a]\n{env}{COMMAND}\n", HF_TOKEN="t").models["a"]
    assert dict(model.env) == {"GIVEN": "1", "HF_TOKEN": "$HF_TOKEN"}
    assert dict(valid(f"[defaults]\n{env}[models.b]\n{COMMAND}").models["b"].env) == model.env

    (note,) = load_text(f"[models.a]\n{env}{COMMAND}\n").notes
    assert str(note).endswith(
        ":2: models.a.env.HF_TOKEN: the proxy has no variable $HF_TOKEN: it is left out"
    )
    (note,) = load_text(f"[models.a]\n{env}").notes
    assert note.key == "models.a.env"
    assert note.message.startswith('only engine "command" takes it')
    wrong = "env = { 'A=B' = 'x', N = 1 }\n"
    assert [line.partition(": ")[0] for line in told(load_text, f"[defaults]\n{wrong}")] == [
        '2 defaults.env."A=B"',
        "2 defaults.env.N",
    ]


def test_how_a_command_is_asked_and_stopped(load_text: LoadText) -> None:
    text = "ready_path = 'health'\n"
    assert [line.partition(": ")[0] for line in told(load_text, f"[defaults]\n{text}")] == [
        "2 defaults.ready_path"
    ]
    for path in ("/a b", "/a\\r\\nX: y", "", "None"):
        assert told(load_text, f'[models.a]\nready_path = "{path}"\n') != []

    notes = load_text("[models.a]\nstop_command = ['x']\nready_path = '/x'\n").notes
    assert [note.key for note in notes] == ["models.a.stop_command", "models.a.ready_path"]


def test_a_cache_is_for_hosted_models(load_text: LoadText) -> None:
    assert told(load_text, "[models.a]\nmoe_cache = 'much'\n") != []
    (note,) = load_text(f"[models.a]\nmoe_cache = '2GiB'\n{COMMAND}\n").notes
    assert note.key == "models.a.moe_cache"
    assert note.message.startswith("only hosted models have it")


def test_what_is_no_placeholder_is_told(load_text: LoadText) -> None:
    text = """[models.a]
engine = 'command'
command = ['x', '{port}', '{prot}', '{pid}', '{"a":{}}']
"""
    notes = load_text(text + "stop_command = ['${PID}', '{pid}', '{port}']\n").notes

    assert [(note.key, note.message[:30]) for note in notes] == [
        ("models.a.command[2]", "{prot} stays as it is; what is"),
        ("models.a.command[3]", "{pid} stays as it is; what is "),
        ("models.a.stop_command[0]", "{PID} stays as it is; what is "),
    ]


def test_a_size_that_was_meant_in_other_units_is_noted(load_text: LoadText) -> None:
    text = "[defaults]\nmoe_cache = 2048\n[devices]\nreserve = 512\nlow = 0\n"
    notes = [(p.line, p.message) for p in load_text(text).notes]

    assert (2, '2048 is a number of bytes; or "2048MiB"?') in notes
    assert (4, '512 is a number of bytes; or "512MiB"?') in notes
    assert not any(line == 5 for line, _ in notes)
