"""llama-server's arguments for where tensors are, which only a worker knows: it has the devices.
Pure."""

from collections.abc import Callable, Collection, Sequence

from proxy.engine.build_options import EXPERT_CACHE
from proxy.engine.llama_args import option_of
from proxy.engine.tensor_names import FEED_FORWARD_TENSORS

# A user who writes one of these divides the model over the devices himself.
DEVICE_ARGUMENTS = frozenset(("--device", "-dev", "--tensor-split", "-ts", "--main-gpu", "-mg"))
# With drafts, several tokens of a sequence are asked for outputs at once.
DRAFT_ARGUMENTS = ("--model-draft", "-md", "--spec-", "--draft", "--hf-repo-draft", "-hfd", "-hfrd")
# What --n-cpu-ffn gives for all layers, as one pattern: llama.cpp compiles each for each tensor
# anew, so that one for every possible layer makes a large model start seconds later.
ALL_FFN_ON_CPU = rf"\.{FEED_FORWARD_TENSORS}=CPU"
# How llama-server is told to map the model's file: as newer ones are, and older ones.
MAPPED = (("--load-mode", "mmap"), ("--mmap",))


def placement_arguments(
    *, moves: bool, split: int | None, dense: bool, knows: Callable[[str], bool]
) -> list[str]:
    """For a machine with a device: to begin with, everything but experts is there, and every expert
    in the mapped file, from where it can move. Where nothing `moves`, the `split` is loaded.

    Without a device there is nothing to move, and plain llama-server is at its best. `knows`:
    whether this llama-server has an option.
    """
    on_device = ["--n-gpu-layers", "999"]
    all_on_cpu = ["--override-tensor", ALL_FFN_ON_CPU] if dense else ["--cpu-moe"]
    if moves:
        mapped = next((said for said in MAPPED if knows(said[0])), ())
        return [*on_device, *all_on_cpu, "--no-repack", *mapped]
    if split is None:
        return [*on_device, *all_on_cpu]
    return [*on_device, *(_dense_split(split) if dense else ("--n-cpu-moe", str(split)))]


def _dense_split(split: int) -> Sequence[str]:
    """What `--n-cpu-ffn` gives, which not every llama-server has."""
    layers = "|".join(map(str, range(split)))
    return ("--override-tensor", rf"blk\.({layers})\.{FEED_FORWARD_TENSORS}=CPU") if split else ()


def cache_arguments(size_mib: int) -> list[str]:
    """llama.cpp's expert cache, if there is to be one. Its name is looked for in builds
    (proxy/engine/build_options.py), and without a device it ends a load."""
    return [EXPERT_CACHE, str(size_mib)] if size_mib else []


def attention_arguments(
    arguments: Sequence[str], devices: Sequence[str], no_attention: Collection[str]
) -> list[str]:
    """All devices, but attention, and all else that is no expert, on some of them only.

    Behind the others, since llama-server knows RPC devices only once it has read `--rpc`. Equal
    shares: how much is free on an RPC device is not known before. What the user says counts.
    """
    if not no_attention or DEVICE_ARGUMENTS & set(map(option_of, arguments)):
        return []
    rpc = arguments[arguments.index("--rpc") + 1].split(",") if "--rpc" in arguments else []
    names = [*devices, *(f"RPC{number}" for number in range(len(rpc)))]
    shares = ["0" if name in no_attention else "1" for name in names]
    if "1" not in shares:
        return []
    return ["--device", ",".join(names), "--tensor-split", ",".join(shares)]


def has_drafts(arguments: Sequence[str]) -> bool:
    """Whether llama-server will guess tokens ahead."""
    return any(option_of(argument).startswith(DRAFT_ARGUMENTS) for argument in arguments)
