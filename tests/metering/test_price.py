import re
from decimal import Decimal
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.contracts.call import Usage
from llmrouter.metering import costs
from llmrouter.metering.price import Price, Rates, Tier, UsdAmount, dearest, nano_usd, tiered
from tests.metering.test_costs import GPT_4O, LONG, prices, tokens, usages

# ---- amounts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usd", "nano"),
    [
        ("2.50", 2_500_000_000),
        (2.50, 2_500_000_000),
        (Decimal("0.075"), 75_000_000),
        (0.1, 100_000_000),  # as a float it is a little more
        (0.1 + 0.2, 300_000_000),
        (1e-9, 1),
        (4.9e-10, 0),
        ("0.0000000005", 1),
        ("0.0833333333333333", 83_333_333),
        ("0.18000000000000002", 180_000_000),
        (0, 0),
        (1_000_000, 10**15),
    ],
)
def test_usd_become_nano_usd_exactly(usd: UsdAmount, nano: int) -> None:
    assert nano_usd(usd) == nano


@pytest.mark.parametrize("usd", ["", "free", "2,50", "$1", -1, "-0.01", float("nan"), "inf", "1 2"])
def test_what_is_no_amount_is_refused_with_what_is_one(usd: UsdAmount) -> None:
    said = f"{usd!r} is not an amount of USD; write one such as 2.50, 0 or more"
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        nano_usd(usd)


def test_what_a_price_does_not_say_costs_what_its_whole_does() -> None:
    assert Price.of_usd(2.50, None, 10.00) == Price(
        input=2_500_000_000,
        cached_input=2_500_000_000,
        output=10_000_000_000,
        reasoning=10_000_000_000,
    )
    assert Price.of_usd(2, 1, 8, 3) == Price(
        input=2_000_000_000,
        cached_input=1_000_000_000,
        output=8_000_000_000,
        reasoning=3_000_000_000,
    )
    assert Price.of_usd(2, 0, 8, 0).cached_input == Price.of_usd(2, 0, 8, 0).reasoning == 0


# ---- the dearest ----------------------------------------------------------------------------


@given(st.lists(prices, min_size=1, max_size=4), usages())
def test_the_dearest_covers_all_of_them_whatever_is_used(many: list[Price], usage: Usage) -> None:
    top = dearest(many)
    assert all(costs.cost(price, usage) <= costs.cost(top, usage) for price in many)
    prompt, output = usage.prompt_tokens, usage.output_tokens
    estimate = costs.estimate(top, prompt, output)
    assert all(costs.estimate(price, prompt, output) <= estimate for price in many)


@given(st.lists(prices, min_size=1, max_size=3), usages(), tokens, tokens)
def test_the_dearest_bounds_every_call_up_to_a_length(
    many: list[Price], usage: Usage, more_prompt: int, more_output: int
) -> None:
    """Also where a list has long prompts cost less: a strict budget knows but a bound of them."""
    bound = costs.estimate(
        dearest(many), usage.prompt_tokens + more_prompt, usage.output_tokens + more_output
    )
    assert all(costs.cost(price, usage) <= bound for price in many)


@given(st.lists(prices, min_size=1, max_size=3))
def test_the_dearest_has_each_tier_once_and_in_order(many: list[Price]) -> None:
    top = dearest(many)
    edges = [tier.start for tier in top.tiers]
    assert edges == sorted(set(edges))
    levels = [
        [getattr(costs.rates_at(top, edge + 1), name) for name in Rates.__struct_fields__]
        for edge in (-1, *edges)
    ]
    assert all(above != below for below, above in pairwise(levels))


def test_the_dearest_takes_the_most_of_each_kind() -> None:
    cheap_in = Price(input=1, cached_input=1, output=9, reasoning=9)
    cheap_out = Price(input=5, cached_input=0, output=2, reasoning=10)
    assert dearest(price for price in (cheap_in, cheap_out)) == Price(
        input=5, cached_input=1, output=9, reasoning=10
    )


def test_the_dearest_has_the_tiers_of_all() -> None:
    flat = Price(input=5, cached_input=5, output=5, reasoning=5)
    one = rising((1, 2), (100, 9))
    two = rising((4, 1), (50, 6), (200, 8))
    assert dearest([flat, one, two]) == rising((5, 5), (50, 6), (100, 9))
    assert dearest([one, two]) == rising((4, 2), (50, 6), (100, 9))


def test_the_dearest_of_one_is_that_one_but_never_falls() -> None:
    assert dearest([LONG]) == LONG
    assert dearest([rising((5, 5), (100, 3), (200, 7))]) == rising((5, 5), (200, 7))


def test_the_dearest_of_none_is_a_mistake_of_whoever_asks() -> None:
    with pytest.raises(ValueError, match="empty"):
        dearest([])


def rising(first: tuple[int, int], *above: tuple[int, int]) -> Price:
    """A price of an input and an output, and what both are above some lengths."""
    (prompt, output) = first
    return Price(
        input=prompt,
        cached_input=prompt,
        output=output,
        reasoning=output,
        tiers=tuple(
            Tier(start, Rates(input=nano, cached_input=nano, output=nano, reasoning=nano))
            for start, nano in above
        ),
    )


def test_a_start_at_which_nothing_changes_makes_no_tier() -> None:
    low, high = Rates.of_usd(1, 1, 1), Rates.of_usd(2, 2, 2)

    price = tiered([300, 100, 200, 100], lambda prompt: high if prompt > 200 else low)

    assert price == msgspec.structs.replace(Price.of_usd(1, 1, 1), tiers=(Tier(200, high),))


# ---- for people to read ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("price", "text"),
    [
        (GPT_4O, "2.5/1.25/10"),
        (Price.of_usd(2, None, 8, 3), "2/2/8/3"),
        (Price.of_usd("0.13", None, 0), "0.13/0.13/0"),
        (Price.of_usd(0, 0, 0), "0/0/0"),
        (Price.of_usd(100, 10, 1_000), "100/10/1000"),
        (Price(input=1, cached_input=0, output=10, reasoning=10), "0.000000001/0/0.00000001"),
        (LONG, "3/0.3/15 >200k 6/0.6/22.5 >500k 9/0.9/45/50"),
        (rising((10**9, 0), (199_999, 10**9)), "1/1/0 >199999 1/1/1"),
        (rising((10**9, 0), (0, 10**9)), "1/1/0 >0 1/1/1"),
    ],
)
def test_a_price_reads_as_usd_per_million_tokens(price: Price, text: str) -> None:
    assert price.text == text


@given(prices)
def test_the_price_can_be_told_from_its_text(price: Price) -> None:
    """So a row of the books shows everything that its cost was worked out from."""
    first, *above = price.text.split(" >")
    told = msgspec.structs.replace(
        Price.of_usd(*first.split("/")),
        tiers=tuple(told_tier(*tier.split(" ")) for tier in above),
    )
    assert told == price


def told_tier(start: str, text: str) -> Tier:
    return Tier(int(start.replace("k", "000")), Rates.of_usd(*text.split("/")))


def test_the_text_is_made_once_and_is_no_part_of_the_price() -> None:
    price, same = Price.of_usd(3, "0.30", 15), Price.of_usd(3, "0.30", 15)
    assert price.text is price.text
    assert price == same
    assert hash(price) == hash(same)
    dearer = msgspec.structs.replace(price, input=nano_usd(4))
    assert dearer.text == "4/0.3/15"
