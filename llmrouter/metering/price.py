"""What tokens cost: integer prices. What they make of a call's tokens, `costs` says.

A price is nano-USD per 1,000,000 tokens, so that 2.50 USD per million is 2_500_000_000. No float
takes part. Where long prompts cost more, a price has tiers.

Deliberately absent: the clock, and what a call may cost besides tokens.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Self

import msgspec

from llmrouter.units import NANO_PER_USD

PRICED_TOKENS = 1_000_000
"""How many tokens a price is for."""

UsdAmount = Decimal | float | int | str
"""USD as people and lists write them; a float means the digits that it is printed with."""


def nano_usd(usd: UsdAmount) -> int:
    """`usd` in nano-USD; what is finer than that is rounded, half up.

    Raises ValueError, saying what is accepted, for what is no amount or is below zero.
    """
    try:
        amount = Decimal(str(usd))
    except InvalidOperation:
        amount = Decimal("nan")
    if not amount.is_finite() or amount < 0:
        raise ValueError(f"{usd!r} is not an amount of USD; write one such as 2.50, 0 or more")
    return int((amount * NANO_PER_USD).to_integral_value(ROUND_HALF_UP))


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """What each kind of token costs, in nano-USD per 1,000,000 of them."""

    input: int
    """Prompt tokens that came from no cache."""
    cached_input: int
    """Prompt tokens that the upstream had in its cache."""
    output: int
    """Output tokens, but for reasoning."""
    reasoning: int
    """Output tokens that were reasoning."""

    @classmethod
    def of_usd(
        cls,
        input: UsdAmount,  # noqa: A002 - as in router.toml
        cached_input: UsdAmount | None,
        output: UsdAmount,
        reasoning: UsdAmount | None = None,
    ) -> Self:
        """From USD per million tokens; what is None costs what its whole does.

        Raises ValueError, as `nano_usd` does.
        """
        return cls(
            input=nano_usd(input),
            cached_input=nano_usd(input if cached_input is None else cached_input),
            output=nano_usd(output),
            reasoning=nano_usd(output if reasoning is None else reasoning),
        )


class Tier(msgspec.Struct, frozen=True):
    """What a call costs whose prompt is longer than others'."""

    start: int
    """Prompts of more tokens than this pay the tier's rates."""
    rates: Rates
    """For all tokens of such a call."""


class Price(Rates, frozen=True, kw_only=True, omit_defaults=True, dict=True):
    """What a model's tokens cost; its own rates are those of prompts that reach no tier."""

    tiers: tuple[Tier, ...] = ()
    """What long prompts cost, by ascending starts."""

    @functools.cached_property
    def text(self) -> str:
        """The whole price for people to read, in USD per million tokens; equal prices read equal.

        `2.5/1.25/10` is input, cached input and output, and has a fourth part where reasoning
        costs something else than output; `3/0.3/15 >200k 6/0.6/22.5` has a tier, which begins
        above 200,000 prompt tokens. Nothing is rounded, so a cost can be worked out from it.
        """
        tiers = (f">{_thousands(tier.start)} {_in_usd(tier.rates)}" for tier in self.tiers)
        return " ".join((_in_usd(self), *tiers))


def _in_usd(rates: Rates) -> str:
    parts = [rates.input, rates.cached_input, rates.output]
    if rates.reasoning != rates.output:
        parts.append(rates.reasoning)
    return "/".join(map(_usd, parts))


def _usd(nano: int) -> str:
    whole, part = divmod(nano, NANO_PER_USD)
    return f"{whole}.{part:09d}".rstrip("0").rstrip(".")


def _thousands(count: int) -> str:
    thousands, rest = divmod(count, 1_000)
    return str(count) if rest or not count else f"{thousands}k"


def tiered(starts: Iterable[int], at: Callable[[int], Rates]) -> Price:
    """The price whose rates for a prompt are `at` its length; they change above `starts` alone."""
    first = rates = at(0)
    tiers: list[Tier] = []
    for start in sorted(set(starts)):
        above = at(start + 1)
        if above != rates:
            tiers.append(Tier(start, above))
            rates = above
    return Price(**msgspec.structs.asdict(first), tiers=tuple(tiers))


def dearest(prices: Iterable[Price]) -> Price:
    """A price that is no lower than any of these, at least one, whatever a call uses.

    It never falls as prompts grow longer, so that for a prompt of unknown length a bound on that
    length gives a bound on the cost.
    """
    among = tuple(prices)
    tiers = [tier for price in among for tier in price.tiers]

    def at(prompt_tokens: int) -> Rates:
        reached = (tier.rates for tier in tiers if prompt_tokens > tier.start)
        return _highest((*among, *reached))

    return tiered((tier.start for tier in tiers), at)


def _highest(among: Sequence[Rates]) -> Rates:
    return Rates(
        **{name: max(getattr(each, name) for each in among) for name in Rates.__struct_fields__}
    )
