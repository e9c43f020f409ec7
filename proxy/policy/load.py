"""Policies from files and environment: a whole valid set, or every reason why there is none."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from proxy.policy.build import build
from proxy.policy.check import check
from proxy.policy.document import parse_document
from proxy.policy.environment import Environment, read_environment
from proxy.policy.merge import Merged, Settings, asked_caches, merge, named_paths, named_programs
from proxy.policy.model import Policies
from proxy.policy.nodes import NODES, node_of
from proxy.policy.problems import Problem
from proxy.policy.sources import Sources, read
from proxy.policy.values import home_of


@dataclass(frozen=True, slots=True)
class Loaded:
    """`policies` is None exactly if there are `problems`; `readable` is then what could be read,
    with defaults for the rest, not to be served by. `files` are those that were read, `named`
    the files and folders that keys name, each with the place where it is named, `programs` those of
    commands, `notes` what is allowed and yet good to know, `caches` the places that ask for an
    expert cache. All of that is of the machine that is called `node`; `parts` is what each node's
    own table sets."""

    policies: Policies | None
    problems: tuple[Problem, ...]
    files: tuple[Path, ...]
    sources: Sources = field(repr=False)
    named: tuple[tuple[Path, Problem], ...] = field(default=(), repr=False)
    programs: tuple[tuple[str, Problem], ...] = field(default=(), repr=False)
    notes: tuple[Problem, ...] = ()
    caches: tuple[Problem, ...] = ()
    readable: Policies | None = field(default=None, repr=False)
    node: str = ""
    parts: Mapping[str, Settings] = field(default_factory=dict, repr=False)


def load(path: Path | None, env: Mapping[str, str]) -> Loaded:
    """The policies in `path`, a file or a folder, or where `env` and custom say they are.

    Never raises for what is in the files or in `env`: that is told as problems.
    """
    return parse(read(path, env), env)


def parse(sources: Sources, env: Mapping[str, str]) -> Loaded:
    """The policies that `sources` would give; touches no file."""
    home, node = home_of(env), node_of(env)
    environment = read_environment(env)
    merged = merge((parse_document(file, data) for file, data in sources.texts), home)
    settings = merged.on(node)
    policies = build(settings, environment, home)
    unreadable = [Problem(str(file), None, "", message) for file, message in sources.failed]
    found = [*unreadable, *merged.problems, *_contradictions(merged, environment, env)]
    check(settings, policies, env)  # for its notes: what it finds was found just now
    problems = (*_in_order([*dict.fromkeys(found)]), *environment.problems)
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
        node,
        merged.parts,
    )


def _contradictions(
    merged: Merged, environment: Environment, env: Mapping[str, str]
) -> Iterator[Problem]:
    """What keys that stand together contradict, on every machine: the same files are good on all of
    them, or on none."""

    def of(settings: Settings) -> list[Problem]:
        check(settings, build(settings, environment, home_of(env)), env)
        return settings.problems

    everywhere = of(merged.on(""))  # nobody's name: what holds where no node's table does
    yield from everywhere
    for node in merged.parts:
        for problem in of(merged.on(node)):
            own = problem.key.startswith(f"{NODES}.")
            if own:
                yield problem
            elif problem not in everywhere:
                yield replace(problem, message=f"{problem.message}; so it is on node {node}")


def _in_order(problems: list[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda problem: (problem.file, problem.line or 0))
