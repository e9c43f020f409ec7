import os
from pathlib import Path

import pytest

from proxy.policy.load import load
from proxy.policy.sources import MOST_BYTES


def test_where_policies_are_looked_for(
    tmp_path: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def files(path: Path | None = None) -> list[str]:
        return [str(file.relative_to(tmp_path)) for file in load(path, env).files]

    config = Path(env["HOME"], ".config/moe-proxy")
    config.mkdir(parents=True)
    (config / "a.toml").touch()
    from_config = files()
    Path("policies").mkdir()
    Path("policies/b.toml").touch()
    from_cwd = files()
    (tmp_path / "c.toml").touch()
    env["MOE_PROXY_POLICIES"] = str(tmp_path / "c.toml")
    from_variable = files()
    (tmp_path / "d.toml").touch()
    monkeypatch.chdir(tmp_path)
    from_argument = files(Path("d.toml"))

    assert from_config == ["home/.config/moe-proxy/a.toml"]
    assert from_cwd == ["cwd/policies/b.toml"]
    assert from_variable == ["c.toml"]
    assert from_argument == ["d.toml"]


def test_what_is_named_has_to_be_there(tmp_path: Path, env: dict[str, str]) -> None:
    missing = tmp_path / "missing.toml"

    by_path = load(missing, env)
    by_variable = load(None, env | {"MOE_PROXY_POLICIES": str(missing)})

    for loaded in (by_path, by_variable):
        assert loaded.policies is None
        assert [(p.file, p.line) for p in loaded.problems] == [(str(missing), None)]


def test_a_path_that_cannot_be_looked_at_is_a_problem(env: dict[str, str]) -> None:
    too_long = Path("x" * 300)

    (problem,) = load(too_long, env).problems

    assert problem.file == str(too_long.absolute())


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "a.toml").symlink_to("nowhere")
    (tmp_path / "b.toml").mkdir()
    (tmp_path / "c.toml").write_text("oops = 1")

    loaded = load(tmp_path, env)

    assert [Path(p.file).name for p in loaded.problems] == ["a.toml", "b.toml", "c.toml"]
    assert os.strerror(2) in loaded.problems[0].message


def test_a_pipe_is_a_problem_and_nobody_waits_for_it(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "a.toml").write_text("defaults.ctx = 5")
    os.mkfifo(tmp_path / "z.toml")

    by_folder = load(tmp_path, env)
    by_name = load(tmp_path / "z.toml", env)

    for loaded in (by_folder, by_name):
        (problem,) = loaded.problems
        assert problem.file == str(tmp_path / "z.toml")
        assert "no regular file" in problem.message


def test_a_file_without_an_end_is_a_problem(tmp_path: Path, env: dict[str, str]) -> None:
    """A log, or a model, that somebody has given a wrong name."""
    (tmp_path / "z.toml").touch()
    os.truncate(tmp_path / "z.toml", MOST_BYTES + 1)

    (problem,) = load(tmp_path, env).problems

    assert "larger than any" in problem.message
