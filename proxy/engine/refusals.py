"""What llama-server would be told, by a policy or behind our back, that a hosted worker cannot
have."""

from collections.abc import Mapping, Sequence

from proxy.engine.llama_args import config_files, refused_args, refused_config, unsafe_args


def refusals(args: Sequence[str], env: Mapping[str, str], *, unsafe: bool = False) -> list[str]:
    """A line for each such thing in `args`, which may be `unsafe`, and in llama.cpp's config files,
    which are read here; `env` says where they are."""
    found = [f"args: {why}" for _, why in refused_args(args)]
    if not unsafe:
        found += [f"args: {why}; unsafe_args = true allows it" for _, why in unsafe_args(args)]
    for file in config_files(env):
        try:
            text = file.read_text(errors="replace")
        except OSError:  # llama-server cannot read it either
            continue
        found += [f"{file}: {key}: {why}" for key, why in refused_config(text)]
    return found
