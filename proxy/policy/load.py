"""Policies from files and environment: a whole valid set, or every reason why there is none."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from proxy.policy.build import asked_caches, build, merge, named_paths, named_programs
from proxy.policy.check import check
from proxy.policy.document import parse_document
from proxy.policy.environment import read_environment
from proxy.policy.model import Policies
from proxy.policy.problems import Problem
from proxy.policy.sources import Sources, read
from proxy.policy.values import home_of


@dataclass(frozen=True, slots=True)
class Loaded:
    """`policies` is None exactly if there are `problems`; `readable` is then what could be read,
    with defaults for the rest, not to be served by. `files` are those that were read, `named`
    the files and folders that keys name, each with the place where it is named, `programs` those of
    commands, `notes` what is allowed and yet good to know, `caches` the places that ask for an
    expert cache."""

    policies: Policies | None
    problems: tuple[Problem, ...]
    files: tuple[Path, ...]
    sources: Sources = field(repr=False)
    named: tuple[tuple[Path, Problem], ...] = field(default=(), repr=False)
    programs: tuple[tuple[str, Problem], ...] = field(default=(), repr=False)
    notes: tuple[Problem, ...] = ()
    caches: tuple[Problem, ...] = ()
    readable: Policies | None = field(default=None, repr=False)


def load(path: Path | None, env: Mapping[str, str]) -> Loaded:
    """The policies in `path`, a file or a folder, or where `env` and custom say they are.

    Never raises for what is in the files or in `env`: that is told as problems.
    """
    return parse(read(path, env), env)


def parse(sources: Sources, env: Mapping[str, str]) -> Loaded:
    """The policies that `sources` would give; touches no file."""
    home = home_of(env)
    environment = read_environment(env)
    settings = merge((parse_document(file, data) for file, data in sources.texts), home)
    policies = build(settings, environment, home)
    check(settings, policies, env)
    unreadable = [Problem(str(file), None, "", message) for file, message in sources.failed]
    problems = (*_in_order(unreadable + settings.problems), *environment.problems)
    return Loaded(
        None if problems else policies,
        problems,
        sources.files,
        sources,
        tuple(named_paths(settings)),
        tuple(named_programs(settings)),
        tuple(_in_order(settings.notes)),
        tuple(_in_order([*asked_caches(settings)])),
        policies,
    )


def _in_order(problems: list[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda problem: (problem.file, problem.line or 0))
