"""The program that reads the price list: `python -P -m llmrouter.daemon.pricereader`.

It reads on its standard input a JSON object of upstreams, name to base URL, and prints a
`PriceTable` of the providers behind them. `pricelist` says who starts it, and why it is a process.

Prices are those of the moment: some change at a date, or by the time of the day. The table says
until when it is true.
"""

import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, assert_never

import msgspec

from llmrouter.metering.price import Price, Rates, tiered
from llmrouter.metering.pricelist import (
    AllOf,
    AnyOf,
    Clause,
    Contains,
    EndsWith,
    Equals,
    Listed,
    Regex,
    StartsWith,
)
from llmrouter.metering.prices import PriceTable
from llmrouter.units import MS_PER_S

if TYPE_CHECKING:
    from genai_prices import types as source

_DAY = timedelta(days=1)
_decode_upstreams = msgspec.json.Decoder(dict[str, str]).decode


def main() -> None:
    """Print the table for the upstreams on standard input."""
    upstreams = _decode_upstreams(sys.stdin.buffer.read())
    sys.stdout.buffer.write(msgspec.json.encode(table_of(upstreams, datetime.now(tz=UTC))))


def table_of(upstreams: Mapping[str, str], now: datetime) -> PriceTable:
    """The table for `upstreams`, by the prices of `now`."""
    from genai_prices import data_snapshot

    snapshot = data_snapshot.get_snapshot()
    found: dict[str, source.Provider] = {}
    for name, url in upstreams.items():
        try:
            # The library knows them in lower case; a scheme and a host may be written in any.
            found[name] = snapshot.find_provider(None, None, url.lower())
        except LookupError:
            continue  # nobody's whose prices are known
    sold = {provider.id: models(provider, snapshot.providers) for provider in found.values()}
    change = next_change((model for each in sold.values() for model in each), now)
    return PriceTable(
        providers={name: provider.id for name, provider in found.items()},
        listed={name: listed(each, now) for name, each in sold.items()},
        valid_until_ms=None if change is None else math.ceil(change.timestamp() * MS_PER_S),
    )


def models(
    provider: "source.Provider", providers: Iterable["source.Provider"]
) -> tuple["source.ModelInfo", ...]:
    """The models of `provider`, then of those whose models it sells at their prices."""
    by_id = {other.id: other for other in providers}
    sellers = (provider, *(by_id[name] for name in provider.fallback_model_providers or ()))
    return tuple(model for seller in sellers for model in seller.models)


def listed(sold: Iterable["source.ModelInfo"], now: datetime) -> tuple[Listed, ...]:
    """Our form of these models, in their order."""
    return tuple(Listed(clause_of(model.match), _price_at(model, now)) for model in sold)


def _price_at(model: "source.ModelInfo", moment: datetime) -> Price | None:
    return price_of(model.get_prices(moment)) if model.prices else None


# ---- when prices change ---------------------------------------------------------------------


def next_change(sold: Iterable["source.ModelInfo"], now: datetime) -> datetime | None:
    """The first moment after `now` at which one of these prices is another; None if all stay."""
    changes = (_next_change(model, now) for model in sold)
    return min((change for change in changes if change is not None), default=None)


def _next_change(model: "source.ModelInfo", now: datetime) -> datetime | None:
    moments = sorted(moment for moment in set(_moments(model, now)) if moment > now)
    if not moments:
        return None
    price = _price_at(model, now)
    return next((moment for moment in moments if _price_at(model, moment) != price), None)


def _moments(model: "source.ModelInfo", now: datetime) -> Iterator[datetime]:
    """The only ones after `now`, and perhaps some before it, that can be the first change.

    Between two dates on which a price starts, one day is like the other: what happens by the time
    of the day happens within a day after `now`, or after one of those dates.
    """
    from genai_prices import types

    if isinstance(model.prices, types.ModelPrice):
        return
    constraints = [price.constraint for price in model.prices]
    starts = [
        datetime.combine(constraint.start_date, time(), UTC)
        for constraint in constraints
        if isinstance(constraint, types.StartDateConstraint)
    ]
    yield from starts
    for constraint in constraints:
        if isinstance(constraint, types.TimeOfDateConstraint):
            for clock in (constraint.start_time, constraint.end_time):
                yield from (_next_time(clock, start) for start in (now, *starts))


def _next_time(clock: time, after: datetime) -> datetime:
    first = datetime.combine(after.date(), clock, clock.tzinfo or UTC)
    return first + ((after - first) // _DAY + 1) * _DAY


# ---- prices ---------------------------------------------------------------------------------


def price_of(prices: "source.ModelPrice") -> Price | None:
    """Our form of a price; None if prompts are not sold by the token."""
    from genai_prices import types

    prompt, cached = prices.input_mtok, prices.cache_read_mtok
    # What makes no output, such as an embedding model, has no price for it.
    output, reasoning = prices.output_mtok or Decimal(0), prices.output_reasoning_mtok
    if prompt is None:
        return None

    def at(prompt_tokens: int) -> Rates:
        return Rates.of_usd(
            _usd_at(prompt, prompt_tokens),
            None if cached is None else _usd_at(cached, prompt_tokens),
            _usd_at(output, prompt_tokens),
            None if reasoning is None else _usd_at(reasoning, prompt_tokens),
        )

    parts = (prompt, cached, output, reasoning)
    tiers = (part.tiers for part in parts if isinstance(part, types.TieredPrices))
    return tiered((tier.start for each in tiers for tier in each), at)


def _usd_at(price: "Decimal | source.TieredPrices", prompt_tokens: int) -> Decimal:
    if isinstance(price, Decimal):
        return price
    reached = (tier.price for tier in reversed(price.tiers) if prompt_tokens > tier.start)
    return next(reached, price.base)


# ---- names ----------------------------------------------------------------------------------


def clause_of(match: "source.MatchLogic") -> Clause:
    """Our form of a clause. The library disregards case, but in regular expressions."""
    from genai_prices import types

    made: Clause
    match match:
        case types.ClauseEquals(equals=text):
            made = Equals(text.lower())
        case types.ClauseStartsWith(starts_with=text):
            made = StartsWith(text.lower())
        case types.ClauseEndsWith(ends_with=text):
            made = EndsWith(text.lower())
        case types.ClauseContains(contains=text):
            made = Contains(text.lower())
        case types.ClauseRegex(regex=pattern):
            made = Regex(pattern)
        case types.ClauseOr(or_=clauses):
            made = AnyOf(tuple(map(clause_of, clauses)))
        case types.ClauseAnd(and_=clauses):
            made = AllOf(tuple(map(clause_of, clauses)))
        case _:
            assert_never(match)
    return made


if __name__ == "__main__":
    main()
