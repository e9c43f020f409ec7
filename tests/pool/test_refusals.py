"""What those are told that get no lease."""

from proxy.pool.effects import Fail, NotYet, Refuse
from proxy.pool.failures import Failure
from proxy.pool.refusals import error_of


def told(effect: Refuse | NotYet | Fail) -> tuple[int, str, float | None]:
    error = error_of(effect)
    return error.status, error.message, error.retry_after_s


def test_each_says_why_and_when_to_come_again() -> None:
    many = Failure("it ended\nno room", 3, 10.0, None)
    one = Failure("bad file", 1, 10.0, None)

    assert told(NotYet(1, many, 3.2)) == (
        503,
        "the model failed 3 times in a row and is tried again in 4 s: it ended\nno room",
        3.2,
    )
    assert told(NotYet(1, one, 0.1)) == (
        503,
        "the model failed and is tried again in 1 s: bad file",
        0.1,
    )
    assert told(Fail(1, "bad file", 1.0)) == (500, "bad file", 1.0)
    assert told(Fail(1, "killed")) == (500, "killed", None)
    assert [told(Refuse(1, why))[0] for why in ("full", "draining")] == [503, 503]
    assert told(Refuse(1, "pinned", model="a")) == (
        409,
        "a is pinned and uses the same rpc server; unpin or unload it first",
        None,
    )
