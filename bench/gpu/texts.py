"""Whether a worker whose experts moved says what plain llama-server says, and where it does not,
how close a call that was.

Other kernels sum in another order, so that the two likeliest tokens may change places where they
are all but equal. A margin far above the differences of the others' logarithms would be a fault.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from tests.support.llama import Client

PROMPT = "the quick brown fox jumps over the lazy dog while the river runs to the mill " * 4
TOKENS = 32


class Said(NamedTuple):
    """One token: its logarithm of probability, and by how much that is above the next likely."""

    token: int
    logprob: float
    margin: float


async def said(client: Client) -> list[Said]:
    answer = await client.complete(PROMPT, TOKENS, n_probs=2)
    tokens = []
    for chosen in answer["completion_probabilities"]:
        best, second = (top["logprob"] for top in chosen["top_logprobs"][:2])
        tokens.append(Said(chosen["id"], chosen["logprob"], round(best - second, 6)))
    return tokens


async def twice(client: Client) -> tuple[list[Said], bool]:
    """What it says, and whether it says so again."""
    first = await said(client)
    return first, await said(client) == first


def compared(ours: Sequence[Said], plain: Sequence[Said]) -> dict[str, Any]:
    """Where they part, if they do; and until there, how far their logarithms are apart."""
    pairs = list(zip(ours, plain, strict=True))
    parted = next((i for i, (a, b) in enumerate(pairs) if a.token != b.token), None)
    apart = [abs(a.logprob - b.logprob) for a, b in pairs[:parted]]
    return {
        "same": parted is None,
        "parted_at": parted,
        "margin_there": None if parted is None else plain[parted].margin,
        "smallest_margin": min(token.margin for token in plain),
        "largest_difference": round(max(apart, default=0.0), 6),
    }
