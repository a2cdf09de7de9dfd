"""What the tokens of a call cost, and what they can cost at most: exact, rounded once.

A call whose prompt is longer than the start of a tier pays that tier's rates for all of its tokens,
the output included: of the tiers that its prompt is longer than, the last.
"""

from typing import Final

from llmrouter.contracts.call import Usage
from llmrouter.metering.price import PRICED_TOKENS, Price, Rates

_PRICED: Final = PRICED_TOKENS
_HALF: Final = PRICED_TOKENS // 2
"""Costs are rounded half up, once for the whole call: parts rounded apart would add up wrong."""


def cost(price: Price, usage: Usage) -> int:
    """What a call with this usage costs, in nano-USD."""
    rates = rates_at(price, usage.prompt_tokens)
    cached, reasoning = usage.cached_tokens, usage.reasoning_tokens
    priced = (usage.prompt_tokens - cached) * rates.input
    priced += (usage.output_tokens - reasoning) * rates.output
    if cached:  # most calls have neither, and a product beyond 31 bits is no small thing
        priced += cached * rates.cached_input
    if reasoning:
        priced += reasoning * rates.reasoning
    return (priced + _HALF) // _PRICED


def estimate(price: Price, prompt_tokens: int, output_tokens: int) -> int:
    """The most that a call with just so many tokens can cost, in nano-USD."""
    rates = rates_at(price, prompt_tokens)
    priced = prompt_tokens * max(rates.input, rates.cached_input)
    priced += output_tokens * max(rates.output, rates.reasoning)
    return (priced + _HALF) // _PRICED


def rates_at(price: Price, prompt_tokens: int) -> Rates:
    """What all tokens of a call with such a prompt are sold at."""
    for tier in reversed(price.tiers):
        if prompt_tokens > tier.start:
            return tier.rates
    return price
