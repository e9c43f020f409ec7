"""What llama-server would be told, by a policy or behind our back, that a hosted worker cannot
have."""

from collections.abc import Mapping, Sequence
from typing import Final

from proxy.engine.llama_args import config_files, refused_args, refused_config, unsafe_args
from proxy.files import read_small

# Of one of llama.cpp's config files.
MOST_BYTES: Final = 1 << 20


def refusals(args: Sequence[str], env: Mapping[str, str], *, unsafe: bool = False) -> list[str]:
    """A line for each such thing in `args`, which may be `unsafe`, and in llama.cpp's config files,
    which are read here; `env` says where they are."""
    found = [f"args: {why}" for _, why in refused_args(args)]
    if not unsafe:
        found += [f"args: {why}; unsafe_args = true allows it" for _, why in unsafe_args(args)]
    for file in config_files(env):
        try:
            text = read_small(file, MOST_BYTES).decode(errors="replace")
        except OSError:  # llama-server cannot read it either
            continue
        found += [f"{file}: {key}: {why}" for key, why in refused_config(text)]
    return found
