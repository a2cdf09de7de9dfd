import pytest

from llmrouter.daemon.demo.directives import NONE, Directives
from llmrouter.daemon.demo.refusals import refusal
from llmrouter.daemon.demo.turns import Turns


@pytest.mark.parametrize(
    ("directives", "status", "code", "retry_after_s"),
    [
        (Directives(context_length=True), 400, "context_length_exceeded", 1),
        (Directives(content_refused=True), 400, "content_filter", 1),
        (Directives(throttle=30), 429, None, 30),
        (Directives(throttle=0), 429, None, 0),
        (Directives(error=502), 502, None, 1),
        (Directives(blink=2.0), 503, None, 1),
        (Directives(flap=2), 503, None, 1),
        (Directives(fail_rate=100), 500, None, 1),
        (Directives(throttle=3, error=500), 429, None, 3),
    ],
)
def test_a_call_is_refused_as_it_asks(
    directives: Directives, status: int, code: str | None, retry_after_s: int
) -> None:
    refused = refusal(directives, Turns(), now_s=0.0)

    assert refused is not None
    assert (refused.status, refused.code, refused.retry_after_s) == (status, code, retry_after_s)
    assert "the demo was asked" in refused.message


@pytest.mark.parametrize(
    "directives",
    [
        NONE,
        Directives(blink=0.5),
        Directives(flap=1),
        Directives(fail_rate=1),
        Directives(slow=1.0, content_filter=True, cut=3, prefill=True),
    ],
)
def test_whom_no_fault_strikes_is_answered(directives: Directives) -> None:
    assert refusal(directives, Turns(), now_s=0.5) is None


def test_one_that_is_spared_by_one_fault_may_meet_another() -> None:
    assert refusal(Directives(flap=1, error=418), Turns(), now_s=0.0) is not None
