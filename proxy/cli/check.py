"""The command `check`: whether the policies are good, here or on another node of a fleet."""

import os
from argparse import Namespace
from dataclasses import asdict

from proxy.cli.inventory import Inventory, inventory
from proxy.cli.output import FAILED, OK, print_result
from proxy.cli.text import node_keys, policies
from proxy.node.names import NODE_VARIABLE
from proxy.policy.live import problem_to_json
from proxy.policy.load import load
from proxy.policy.nodes import node_of
from proxy.policy.overrides import overrides
from proxy.policy.warnings import warnings_of


def check(arguments: Namespace) -> int:
    """With `--node`, what holds on that one, whose disks cannot be looked at from another."""
    env = dict(os.environ)
    if arguments.node is not None:
        env[NODE_VARIABLE] = arguments.node
    loaded, is_here = load(arguments.policies, env), node_of(env) == node_of(os.environ)
    warnings = warnings_of(loaded, env) if is_here else loaded.notes
    there = inventory(loaded.policies, env) if loaded.policies and is_here else Inventory({}, {})
    own = [*overrides(loaded)] if loaded.policies else []
    found = {
        "node": loaded.node,
        "files": [str(file) for file in loaded.files],
        "problems": [problem_to_json(problem) for problem in loaded.problems],
        "warnings": [problem_to_json(warning) for warning in warnings],
        "models": dict(there.sources),
        "unusable_models": dict(there.unusable),
        "node_keys": [asdict(each) for each in own],
    }

    def text() -> str:
        models = str(there) if is_here else "models unknown from here"
        told = policies(loaded, warnings, models, there.unusable)
        return told if arguments.node is None else f"{told}\n{node_keys(loaded.node, own)}"

    print_result(arguments, found, text)
    return OK if loaded.policies else FAILED
