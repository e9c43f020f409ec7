"""Where a worker has llama-server put tensors."""

import pytest

from proxy.worker.server_arguments import (
    attention_arguments,
    cache_arguments,
    has_drafts,
    placement_arguments,
)

RPC = ("--model", "m.gguf", "--rpc", "a:1,b:2")


@pytest.mark.parametrize(
    ("moves", "split", "dense", "expected"),
    [
        (True, None, False, ["--cpu-moe", "--no-repack", "--load-mode", "mmap"]),
        (False, None, False, ["--cpu-moe"]),
        (False, 3, False, ["--n-cpu-moe", "3"]),
        (False, 3, True, ["--override-tensor", r"blk\.(0|1|2)\.ffn_(up|down|gate)\.=CPU"]),
        (False, 0, True, []),
        (False, None, True, ["--override-tensor", r"\.ffn_(up|down|gate)\.=CPU"]),
    ],
)
def test_all_else_is_on_the_devices(
    moves: bool, split: int | None, dense: bool, expected: list[str]
) -> None:
    made = placement_arguments(
        moves=moves, split=split, dense=dense, knows={"--load-mode", "--mmap"}.__contains__
    )

    assert made == ["--n-gpu-layers", "999", *expected]


def test_a_build_without_a_cache_never_hears_of_one() -> None:
    assert cache_arguments(0) == []
    assert cache_arguments(512) == ["--moe-cache-mib", "512"]


@pytest.mark.parametrize(("known", "said"), [("--mmap", ["--mmap"]), ("", [])])
def test_an_older_llama_server_is_told_in_its_own_words(known: str, said: list[str]) -> None:
    made = placement_arguments(
        moves=True, split=None, dense=False, knows=lambda option: option == known
    )

    assert made == ["--n-gpu-layers", "999", "--cpu-moe", "--no-repack", *said]


def test_attention_keeps_to_the_devices_that_may_have_it() -> None:
    assert attention_arguments(RPC, ["CUDA0"], {"RPC1"}) == [
        *("--device", "CUDA0,RPC0,RPC1", "--tensor-split", "1,1,0")
    ]
    assert attention_arguments(RPC, ["CUDA0"], ()) == []
    assert attention_arguments(RPC, [], {"RPC0", "RPC1"}) == []  # none is left


@pytest.mark.parametrize("said", ["--tensor-split", "--tensor_split", "-dev", "--main-gpu"])
def test_a_user_who_divides_the_model_is_not_overruled(said: str) -> None:
    assert attention_arguments((*RPC, said, "1"), ["CUDA0"], {"RPC1"}) == []


def test_drafts_are_seen_wherever_they_are_asked_for() -> None:
    assert not has_drafts(RPC)
    for said in ("-md", "--model_draft", "--spec-draft-model", "-hfd", "--spec-default"):
        assert has_drafts((*RPC, said, "d.gguf"))
