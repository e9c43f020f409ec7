"""What requests for a model have unless they say otherwise, in llama-server's names."""

from collections.abc import Mapping
from typing import Any, Final

from proxy.dialect.ollama.options import SAMPLING, read_options
from proxy.dialect.synonyms import still_open
from proxy.routing.resolver import Model

# What a policy may call by a name of others, too.
NAMES: Final[Mapping[str, str]] = {"repetition_penalty": "repeat_penalty"}
# Ollama's names, where llama-server's are others.
OLLAMAS: Final = tuple(name for name, (_, target) in SAMPLING.items() if name != target)


def defaults_of(model: Model) -> Mapping[str, Any]:
    """Its policy's `params`, and its manifest's parameters where those say nothing. How a model is
    loaded is the router's."""
    params = _in_own_names(model.policy.params)
    said = model.entry.params if model.entry else {}
    if not said:
        return params
    own = read_options({name: said[name] for name in SAMPLING if name in said}).sampling
    return {**still_open(own, params), **params}


def _in_own_names(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where a thing is there by both names, llama-server's counts."""
    others = {name: params[name] for name in (*OLLAMAS, *NAMES) if name in params}
    if not others:
        return params
    read = read_options({name: value for name, value in others.items() if name in SAMPLING})
    named = {NAMES[name]: value for name, value in others.items() if name in NAMES}
    own = {name: value for name, value in params.items() if name not in others}
    return {**still_open({**read.sampling, **named}, own), **own}
