"""The tally is what a row of the books adds up to, column by column."""

from llmrouter.contracts.call import Usage
from llmrouter.metering.booking import INTERRUPTED, add, amounts
from llmrouter.metering.records import End
from llmrouter.metering.tally import Tally


def tally(*ends: End) -> Tally:
    sums = [0] * len(Tally.__struct_fields__)
    for end in ends:
        add(sums, end, amounts(end))
    return Tally(*sums)


def test_its_members_stand_in_the_order_of_what_a_row_adds() -> None:
    usage = Usage(
        prompt_tokens=100, cached_tokens=20, output_tokens=30, reasoning_tokens=4, cost_nano_usd=5
    )
    end = End(
        seq=1, at_ms=2, request_id="req_1", status=502, outcome="upstream_error", estimated=True,
        usage=usage, cost_nano_usd=7, duration_ms=8,
    )  # fmt: skip

    assert tally(end) == Tally(
        calls=1,
        errors=1,
        estimated=1,
        reported=1,
        prompt_tokens=100,
        cached_tokens=20,
        output_tokens=30,
        reasoning_tokens=4,
        cost_nano_usd=7,
        reported_nano_usd=5,
    )


def test_what_is_no_call_or_has_no_end_or_no_price_stands_in_its_own_column() -> None:
    attempt = End(seq=1, at_ms=2, request_id="req_1", status=0, outcome="ok", attempts=0,
                  duration_ms=8)  # fmt: skip
    interrupted = End(seq=2, at_ms=2, request_id="req_2", status=0, outcome=INTERRUPTED,
                      cost_nano_usd=7, duration_ms=0)  # fmt: skip

    assert tally(attempt) == Tally(unpriced=1, other_attempts=1)
    assert tally(interrupted) == Tally(calls=1, errors=1, interrupted=1, cost_nano_usd=7)
    assert tally(attempt, interrupted) == Tally(
        calls=1, errors=1, interrupted=1, unpriced=1, cost_nano_usd=7, other_attempts=1
    )
