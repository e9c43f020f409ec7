"""Two names of one file are one backend where they differ in what requests get only. Pure."""

from dataclasses import replace
from operator import attrgetter
from typing import Final

from proxy.catalog.entry import Entry
from proxy.policy.model import ModelPolicy

# What of a policy decides how a model is loaded, beside its context and its split.
_LOADS: Final = attrgetter(
    *("engine", "mode", "split", "parallel", "args", "unsafe_args", "rpc", "repack", "confine"),
)


def can_share(
    entry: Entry, policy: ModelPolicy, base_entry: Entry, base_policy: ModelPolicy
) -> bool:
    """Whether a model with the same files as another one is loaded as that one is.

    Two tables of policies that each name a path are two models, which somebody wants side by side:
    otherwise one would be a variant of the other.
    """
    if entry.source == "policy" or policy.engine != "hosted" or policy.split != "move":
        return False
    same_layers = (policy.dense_cpu_layers is None) == (base_policy.dense_cpu_layers is None)
    same_template = _template(entry) == _template(base_entry)
    return same_layers and same_template and bool(_LOADS(policy) == _LOADS(base_policy))


def shared_policy(policy: ModelPolicy, base: ModelPolicy, entry: Entry) -> ModelPolicy:
    """The policy of a model that shares another one's backend: where nobody has said for this one
    how many layers' experts are on the CPU, that is no wish to move those of the other."""
    if "moe_cpu_layers" not in policy.written and "moe_cpu_layers" not in entry.params:
        policy = replace(policy, moe_cpu_layers=base.moe_cpu_layers)
    if "dense_cpu_layers" not in policy.written:
        policy = replace(policy, dense_cpu_layers=base.dense_cpu_layers)
    return policy


def _template(entry: Entry) -> str | None:
    """The one that is loaded in the place of the file's own."""
    return entry.template if entry.template_file else None
