from decimal import ROUND_HALF_UP, Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.contracts.call import Usage
from llmrouter.metering import costs
from llmrouter.metering.price import Price, Rates, Tier

GPT_4O = Price.of_usd("2.50", "1.25", "10.00")
LONG = msgspec.structs.replace(
    Price.of_usd(3, "0.30", 15),
    tiers=(
        Tier(200_000, Rates.of_usd(6, "0.60", "22.50")),
        Tier(500_000, Rates.of_usd(9, "0.90", 45, 50)),
    ),
)

tokens = st.integers(0, 10**9)
nanos = st.integers(0, 10**15)
starts = st.integers(0, 1_000)
"""So low that drawn calls pass some of them, and often lie at their edge."""
rates = st.builds(Rates, input=nanos, cached_input=nanos, output=nanos, reasoning=nanos)
tiers = st.dictionaries(starts, rates, max_size=3).map(
    lambda by_start: tuple(Tier(*each) for each in sorted(by_start.items()))
)
prices = st.builds(
    Price, input=nanos, cached_input=nanos, output=nanos, reasoning=nanos, tiers=tiers
)
prompts = st.integers(0, 1_010) | tokens


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    prompt, output = draw(prompts), draw(tokens)
    return Usage(
        prompt_tokens=prompt,
        cached_tokens=draw(st.integers(0, prompt)),
        output_tokens=output,
        reasoning_tokens=draw(st.integers(0, output)),
    )


# ---- costs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("price", "usage", "nano"),
    [
        (GPT_4O, Usage(), 0),
        (GPT_4O, Usage(prompt_tokens=1), 2_500),
        (GPT_4O, Usage(prompt_tokens=1, cached_tokens=1), 1_250),
        (GPT_4O, Usage(output_tokens=1), 10_000),
        (GPT_4O, Usage(output_tokens=1, reasoning_tokens=1), 10_000),
        # 600 x 2.50 + 400 x 1.25 + 200 x 10.00 = 4,000 USD a million times
        (GPT_4O, Usage(prompt_tokens=1_000, cached_tokens=400, output_tokens=200), 4_000_000),
        # 100 x 2 + 60 x 8 + 40 x 3 = 800
        (
            Price.of_usd(2, None, 8, 3),
            Usage(prompt_tokens=100, output_tokens=100, reasoning_tokens=40),
            800_000,
        ),
        # Three parts of 0.0004 nano-USD and up: apart they would be rounded away.
        (Price(input=400, cached_input=0, output=600, reasoning=0), Usage(prompt_tokens=1), 0),
        (
            Price(input=400_000, cached_input=0, output=100_000, reasoning=0),
            Usage(prompt_tokens=1, output_tokens=1),
            1,
        ),
        (Price(input=499_999, cached_input=0, output=0, reasoning=0), Usage(prompt_tokens=1), 0),
        (Price(input=500_000, cached_input=0, output=0, reasoning=0), Usage(prompt_tokens=1), 1),
        # Half to even would make this 2.
        (Price(input=500_000, cached_input=0, output=0, reasoning=0), Usage(prompt_tokens=5), 3),
        # What the upstream says it costs is its own figure, kept beside ours.
        (GPT_4O, Usage(prompt_tokens=1, cost_nano_usd=7), 2_500),
    ],
)
def test_a_call_costs_its_tokens_at_their_prices(price: Price, usage: Usage, nano: int) -> None:
    assert costs.cost(price, usage) == nano


@pytest.mark.parametrize(
    ("usage", "nano"),
    [
        (Usage(prompt_tokens=199_999, output_tokens=1), 199_999 * 3_000 + 15_000),
        (Usage(prompt_tokens=200_000, output_tokens=1), 200_000 * 3_000 + 15_000),
        # Every token at the tier's rates, not those above its start alone.
        (Usage(prompt_tokens=200_001, output_tokens=1), 200_001 * 6_000 + 22_500),
        # Cached ones count for the length.
        (
            Usage(prompt_tokens=200_001, cached_tokens=200_000, output_tokens=1),
            6_000 + 200_000 * 600 + 22_500,
        ),
        (Usage(prompt_tokens=500_000), 500_000 * 6_000),
        (
            Usage(prompt_tokens=500_001, output_tokens=10, reasoning_tokens=4),
            500_001 * 9_000 + 6 * 45_000 + 4 * 50_000,
        ),
        # The length of the answer counts for nothing.
        (Usage(prompt_tokens=1, output_tokens=1_000_000), 3_000 + 1_000_000 * 15_000),
    ],
)
def test_a_long_prompt_moves_the_whole_call_to_its_tier(usage: Usage, nano: int) -> None:
    assert costs.cost(LONG, usage) == nano


@given(prices, usages())
def test_a_cost_is_the_exact_sum_rounded_once_half_up(price: Price, usage: Usage) -> None:
    reached: list[Rates] = [price]
    reached += [tier.rates for tier in price.tiers if usage.prompt_tokens > tier.start]
    exact = sum(
        Decimal(count) * per_million / 1_000_000
        for count, per_million in (
            (usage.prompt_tokens - usage.cached_tokens, reached[-1].input),
            (usage.cached_tokens, reached[-1].cached_input),
            (usage.output_tokens - usage.reasoning_tokens, reached[-1].output),
            (usage.reasoning_tokens, reached[-1].reasoning),
        )
    )
    assert costs.cost(price, usage) == int(Decimal(exact).to_integral_value(ROUND_HALF_UP))


# ---- estimates ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("price", "prompt", "nano"),
    [
        (GPT_4O, 1_000, 1_000 * 2_500 + 100 * 10_000),
        (Price.of_usd(2, 5, 8, 3), 1_000, 1_000 * 5_000 + 100 * 8_000),
        (Price.of_usd(2, 1, 8, 9), 1_000, 1_000 * 2_000 + 100 * 9_000),
        # Nobody with a short prompt is held for what a long one would cost.
        (LONG, 1_000, 1_000 * 3_000 + 100 * 15_000),
        (LONG, 200_000, 200_000 * 3_000 + 100 * 15_000),
        (LONG, 200_001, 200_001 * 6_000 + 100 * 22_500),
        (LONG, 500_001, 500_001 * 9_000 + 100 * 50_000),
    ],
)
def test_an_estimate_takes_the_dearest_that_each_token_can_be(
    price: Price, prompt: int, nano: int
) -> None:
    assert costs.estimate(price, prompt, 100) == nano


@given(prices, usages())
def test_no_call_costs_more_than_its_estimate(price: Price, usage: Usage) -> None:
    assert costs.cost(price, usage) <= costs.estimate(
        price, usage.prompt_tokens, usage.output_tokens
    )


@given(prices, prompts, tokens)
def test_an_estimate_is_no_more_than_some_call_costs(
    price: Price, prompt: int, output: int
) -> None:
    calls = [
        Usage(prompt_tokens=prompt, cached_tokens=c, output_tokens=output, reasoning_tokens=r)
        for c in (0, prompt)
        for r in (0, output)
    ]
    assert max(costs.cost(price, call) for call in calls) == costs.estimate(price, prompt, output)


@given(prices, prompts, tokens, tokens)
def test_an_estimate_for_more_output_is_no_lower(
    price: Price, prompt: int, output: int, more: int
) -> None:
    assert costs.estimate(price, prompt, output) <= costs.estimate(price, prompt, output + more)
