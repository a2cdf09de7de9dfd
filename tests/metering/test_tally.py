"""The tally is what a row of the books adds up to, column by column."""

from llmrouter.contracts.call import Usage
from llmrouter.metering.booking import tally
from llmrouter.metering.records import End
from llmrouter.metering.tally import Tally


def test_its_members_stand_in_the_order_of_what_a_row_adds() -> None:
    usage = Usage(
        prompt_tokens=100, cached_tokens=20, output_tokens=30, reasoning_tokens=4, cost_nano_usd=5
    )
    end = End(
        seq=1, at_ms=2, request_id="req_1", status=502, outcome="upstream_error", estimated=True,
        usage=usage, cost_nano_usd=7, duration_ms=8,
    )  # fmt: skip

    assert Tally(*tally(end)) == Tally(
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
