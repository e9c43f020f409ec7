"""What holds for a model where its policy and its manifest (a Modelfile's PARAMETER) both speak."""

from dataclasses import replace

from proxy.catalog.entry import Entry
from proxy.errors import BadRequest
from proxy.policy.model import ModelPolicy
from proxy.split import Split, parse_split


def effective_policy(policy: ModelPolicy, entry: Entry | None) -> ModelPolicy:
    """The policy with what the manifest sets and the model's own table leaves open.

    A table of the model beats its manifest, which beats [defaults].
    """
    params = entry.params if entry else {}
    ctx, split = params.get("num_ctx"), params.get("moe_cpu_layers")
    if isinstance(ctx, int) and ctx > 0 and "ctx" not in policy.written:
        policy = replace(policy, ctx=ctx)
    if isinstance(split, int | str) and "moe_cpu_layers" not in policy.written:
        policy = replace(policy, moe_cpu_layers=_split(split, policy.moe_cpu_layers))
    return policy


def served_ctx(policy: ModelPolicy, trained: int | None) -> int:
    """How many tokens a request has that asks for no number: a model is never loaded with more than
    it was `trained` for, which 0 and None leave open."""
    return min(policy.ctx, trained or policy.ctx)


def served_split(policy: ModelPolicy, *, dense: bool) -> Split | None:
    """The split that holds for a model unless somebody asks for one. None for one without experts
    (`dense`) of which nothing moves."""
    if not dense or policy.engine != "hosted":
        return policy.moe_cpu_layers
    return policy.dense_cpu_layers


def _split(value: int | str, otherwise: Split) -> Split:
    """A manifest may come from anywhere, and an older one may have words."""
    try:
        return parse_split(value)
    except BadRequest:
        return otherwise
