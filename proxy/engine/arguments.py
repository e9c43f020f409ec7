"""llama-server's arguments for what is to be loaded. Pure."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from proxy.engine.llama_args import option_of
from proxy.engine.types import LoadOptions

MODE_ARGUMENTS = {"generation": (), "embedding": ("--embeddings",), "rerank": ("--reranking",)}


SLOT_FOLDER: Final = "--slot-save-path"
# llama-server's own: what it takes of a prompt between two looks at other requests.
DEFAULT_BATCH = 2048


def server_arguments(options: LoadOptions) -> list[str]:
    """Everything but where to listen and where experts go, which the worker knows better.

    The context is always given, and `--fit` always off: otherwise llama-server may shrink the one
    or move the other silently. It divides `-c` among its slots, whereas our `ctx` is what one
    conversation may use.
    """
    return [
        *("--model", str(options.path), "--alias", options.model),
        *("--ctx-size", str(options.ctx * options.parallel), "--parallel", str(options.parallel)),
        *("--fit", "off", "--metrics", "--no-webui"),
        *_batches(options),
        *(("--rpc", ",".join(options.rpc)) if options.rpc else ()),
        *(("--threads", str(options.threads)) if options.threads else ()),
        *(("--mmproj", str(options.projector)) if options.projector else ()),
        *(("--lora", ",".join(map(str, options.adapters))) if options.adapters else ()),
        *(("--chat-template-file", str(options.template)) if options.template else ()),
        *MODE_ARGUMENTS[options.mode],
        *options.args,
    ]


def _batches(options: LoadOptions) -> tuple[str, ...]:
    """A physical batch is at most as large as the logical one; where whole inputs are computed at
    once, as for embeddings, llama-server wants both to be the same."""
    ubatch = options.ubatch
    if ubatch is None:
        return ()
    whole = options.mode != "generation"
    logical = ("--batch-size", str(ubatch)) if whole or ubatch > DEFAULT_BATCH else ()
    return ("--ubatch-size", str(ubatch), *logical)


def names_slot_folder(args: Sequence[str]) -> bool:
    """Whether llama-server is told a folder for its slots by somebody else."""
    return SLOT_FOLDER in map(option_of, args)


def saves_slots(options: LoadOptions) -> bool:
    """Whether its slots can be saved into a folder of ours."""
    hosted = options.engine == "hosted" and options.mode == "generation"
    return hosted and not names_slot_folder(options.args)


def slot_arguments(options: LoadOptions, folder: Path | None) -> tuple[str, ...]:
    """Where its slots are saved, if they can be."""
    return (SLOT_FOLDER, str(folder)) if folder and saves_slots(options) else ()
