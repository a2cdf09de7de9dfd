import dataclasses
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import ROUND_HALF_UP, Decimal
from functools import cache

import genai_prices
import pytest
from genai_prices import data_snapshot, types
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.contracts.call import Usage
from llmrouter.daemon.pricereader import (
    clause_of,
    listed,
    models,
    next_change,
    price_of,
    table_of,
)
from llmrouter.metering import costs
from llmrouter.metering.price import Price
from llmrouter.metering.pricelist import Listed, PriceList
from llmrouter.metering.prices import PriceBook
from tests.daemon.bills import BILLS, UPSTREAMS, Bill, used

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
PROVIDERS = {provider.id: provider for provider in data_snapshot.get_snapshot().providers}


@cache
def book() -> PriceBook:
    return PriceBook(table_of(UPSTREAMS, NOW))


@cache
def full_list() -> PriceList:
    """What all providers list, with those that no URL of ours leads to."""
    return PriceList({name: of(provider) for name, provider in PROVIDERS.items()})


def of(provider: types.Provider) -> Sequence[Listed]:
    return listed(models(provider, PROVIDERS.values()), NOW)


# ---- what calls cost ------------------------------------------------------------------------

every_bill = pytest.mark.parametrize(
    "bill", BILLS, ids=lambda bill: f"{bill.model}-{bill.nano_usd}"
)


@every_bill
def test_calls_cost_what_their_provider_bills(bill: Bill) -> None:
    """To the nano-dollar."""
    price = book().price("any", bill.upstream, bill.model)
    assert price is not None
    assert costs.cost(price, bill.usage) == bill.nano_usd


@every_bill
def test_the_bills_are_what_their_sums_make(bill: Bill) -> None:
    """So that the table itself can be trusted: every token is in the sum, at some price."""
    factors = [part.split(" x ") for part in bill.sum.split(" + ")]
    total = sum((int(count) * Decimal(usd) for count, usd in factors), Decimal(0))
    assert (total * 1_000).to_integral_value(ROUND_HALF_UP) == bill.nano_usd
    tokens = sum(int(count) for count, _ in factors)
    assert tokens == bill.usage.prompt_tokens + bill.usage.output_tokens


def test_the_bills_are_of_many_models_and_of_every_kind_of_token() -> None:
    assert len(BILLS) >= 30
    assert len({bill.model for bill in BILLS}) >= 10
    assert len({bill.upstream for bill in BILLS}) >= 10
    assert sum(bill.usage.cached_tokens > 0 for bill in BILLS) >= 10
    assert sum(bill.usage.reasoning_tokens > 0 for bill in BILLS) >= 10


def usages(starts: Sequence[int], draw: random.Random) -> Iterator[Usage]:
    """Some of any size, and some at the edges of tiers."""
    for prompt in (*starts, *(start + 1 for start in starts), draw.randrange(2_000), 0):
        yield some_usage(prompt, draw)
    yield some_usage(draw.randrange(2_000_000), draw)


def some_usage(prompt: int, draw: random.Random) -> Usage:
    output = draw.choice((0, draw.randrange(200_000)))
    cached, reasoning = draw.randrange(prompt + 1), draw.randrange(output + 1)
    return used(prompt, draw.choice((0, cached)), output, draw.choice((0, reasoning)))


def theirs(prices: types.ModelPrice, usage: Usage) -> int:
    """What the library says that the tokens of a call cost, in nano-USD."""
    calculated = prices.calc_price(
        genai_prices.Usage(
            input_tokens=usage.prompt_tokens,
            cache_read_tokens=usage.cached_tokens,
            output_tokens=usage.output_tokens,
            output_reasoning_tokens=usage.reasoning_tokens,
        )
    )["total_price"]
    if isinstance(a_call := prices.requests_kcount, Decimal):
        calculated -= a_call / 1_000  # what is asked for a call as such is no token's price
    return int((calculated * 10**9).to_integral_value(ROUND_HALF_UP))


def test_every_call_costs_what_the_library_says() -> None:
    """Over the whole list, below, at and above every tier."""
    draw = random.Random(4)
    wrong: list[tuple[object, ...]] = []
    compared = with_tiers = 0
    for provider in PROVIDERS.values():
        for model in provider.models:
            if not model.prices or (price := price_of(model.get_prices(NOW))) is None:
                continue
            with_tiers += bool(price.tiers)
            for usage in usages([tier.start for tier in price.tiers], draw):
                compared += 1
                bill = theirs(model.get_prices(NOW), usage)
                if costs.cost(price, usage) != bill:
                    wrong.append((provider.id, model.id, usage, costs.cost(price, usage), bill))
                if costs.estimate(price, usage.prompt_tokens, usage.output_tokens) < bill:
                    wrong.append((provider.id, model.id, usage, "its estimate is less", bill))
    assert wrong == []
    assert compared > 5_000
    assert with_tiers > 100


USAGES = [used(1_000, 0, 500, 0), used(4_097, 1_024, 333, 0), used(999_999, 777_777, 8_191, 7_001)]


@pytest.mark.parametrize("provider", ["openai", "anthropic", "azure", "groq", "mistral"])
def test_every_name_costs_what_the_library_says(provider: str) -> None:
    asked = sorted(set(names(PROVIDERS[provider])))
    found = {name: full_list().find(provider, name) for name in asked}

    assert {
        (name, usage): None if price is None else costs.cost(price, usage)
        for name, price in found.items()
        for usage in USAGES
    } == {
        (name, usage): theirs_by_name(provider, name, usage) for name in asked for usage in USAGES
    }
    assert sum(price is not None for price in found.values()) > 20


def theirs_by_name(provider: str, name: str, usage: Usage) -> int | None:
    """None if it knows no such model, or no price of its prompts."""
    try:
        calculated = genai_prices.calc_price(
            genai_prices.Usage(), name, provider_id=provider, genai_request_timestamp=NOW
        )
    except LookupError:
        return None
    prices = calculated.model_price
    return None if prices.input_mtok is None else theirs(prices, usage)


# ---- names ----------------------------------------------------------------------------------


def names(provider: types.Provider) -> Iterator[str]:
    """What a provider's models may be called: their ids, and the names in their clauses."""
    for model in provider.models:
        yield model.id
        for clause in parts(model.match):
            if not isinstance(clause, types.ClauseOr | types.ClauseAnd | types.ClauseRegex):
                (field,) = dataclasses.fields(clause)
                yield getattr(clause, field.name)


def parts(clause: types.MatchLogic) -> Iterator[types.MatchLogic]:
    """A clause, and all that stands in it."""
    yield clause
    if isinstance(clause, types.ClauseOr):
        for inner in clause.or_:
            yield from parts(inner)
    if isinstance(clause, types.ClauseAnd):
        for inner in clause.and_:
            yield from parts(inner)


def corpus() -> list[str]:
    """Names that clauses match, nearly match and do not match."""
    models = [name for provider in PROVIDERS.values() for name in names(provider)]
    some = sorted(set(models))[::17]
    written = [f"{name}-20251211" for name in some[::9]] + [f"x/{name}:free" for name in some[::9]]
    odd = ["", " ", "-", "GPT-4O", "Claude-Opus-5-20260101", "gpt-5.4-2026-03-05", "\u0130stanbul"]
    return [*some, *written, *odd, *(name.upper() for name in some[::9])]


def test_every_clause_matches_what_the_library_says() -> None:
    asked = corpus()
    kinds = set()
    for provider in PROVIDERS.values():
        for model in provider.models:
            for clause in parts(model.match):
                kinds.add(type(clause))
                ours = clause_of(clause)
                found = [name for name in asked if ours.matches(name.lower())]
                assert found == [name for name in asked if clause.is_match(name.lower())]
    assert len(kinds) == 7


@pytest.mark.parametrize(
    "clause",
    [
        types.ClauseEquals("Llama-3"),
        types.ClauseStartsWith("Llama"),
        types.ClauseEndsWith("ama-3"),
        types.ClauseEndsWith("AMA-3"),
        types.ClauseContains("AMA"),
        types.ClauseRegex("Llama"),
        types.ClauseRegex("llama"),
        types.ClauseOr([types.ClauseRegex("Llama"), types.ClauseContains("MA-")]),
        types.ClauseAnd([types.ClauseRegex("llama"), types.ClauseContains("MA-")]),
    ],
)
def test_case_counts_where_it_counts_for_the_library(clause: types.MatchLogic) -> None:
    model = types.ModelInfo(id="llama", match=clause)
    for name in ("llama-3", "Llama-3", "LLAMA-3", "llama-4"):
        assert clause_of(clause).matches(name.lower()) is model.is_match(name)


@pytest.mark.parametrize("provider", ["openai", "azure", "openrouter", "google", "aws"])
def test_a_name_means_the_model_that_the_library_says(provider: str) -> None:
    """Case, dates without dashes and other providers' models included."""
    whole = PROVIDERS[provider]
    for name in corpus()[::3]:
        model = whole.find_model(name, all_providers=list(PROVIDERS.values()))
        price = None if model is None or not model.prices else price_of(model.get_prices(NOW))
        assert full_list().find(provider, name) == price


def test_upstreams_are_known_by_their_url() -> None:
    assert table_of(UPSTREAMS, NOW).providers == {
        "openai": "openai",
        "claude": "anthropic",
        "router": "openrouter",
        "azure-eu": "azure",
        "deep": "deepseek",
        "search": "perplexity",
        "vertex": "google",
        "gemini": "google",
        "mistral": "mistral",
        "grok": "x-ai",
        "groq": "groq",
        "moonshot": "moonshotai",
        "minimax": "minimax",
        "zai": "zai",
        "bedrock": "aws",
    }


def test_only_providers_that_occur_are_listed_and_none_is_explicit() -> None:
    two = {"one": "https://api.openai.com/v1", "two": "https://api.openai.com"}
    table = table_of(two, NOW)
    assert set(table.listed) == {"openai"}
    assert table.providers == {"one": "openai", "two": "openai"}
    assert table.explicit == {}


@pytest.mark.parametrize("upstream", ["local", "demo", "unheard-of"])
def test_an_upstream_that_nobody_knows_has_no_price(upstream: str) -> None:
    assert book().price("gpt-4o", upstream, "gpt-4o") is None


@pytest.mark.parametrize("model", ["whisper-1", "tts-1", "omni-moderation-latest"])
def test_what_is_not_sold_by_the_token_has_no_price(model: str) -> None:
    assert book().price("any", "openai", model) is None


# ---- how a price is read --------------------------------------------------------------------


def mtok(**prices: Decimal | types.TieredPrices) -> types.ModelPrice:
    return types.ModelPrice(**prices)


def tiered(base: str, *tiers: tuple[int, str]) -> types.TieredPrices:
    return types.TieredPrices(Decimal(base), [types.Tier(at, Decimal(usd)) for at, usd in tiers])


@pytest.mark.parametrize(
    ("prices", "price"),
    [
        (mtok(), None),
        (mtok(output_mtok=Decimal(1)), None),
        (mtok(input_mtok=Decimal(1)), Price.of_usd(1, None, 0)),
        (mtok(input_mtok=Decimal(0), output_mtok=Decimal(0)), Price.of_usd(0, None, 0)),
        (
            mtok(
                input_mtok=Decimal("2.5"),
                cache_read_mtok=Decimal("1.25"),
                output_mtok=Decimal(10),
                output_reasoning_mtok=Decimal(12),
                requests_kcount=Decimal(5),
            ),
            Price.of_usd("2.5", "1.25", 10, 12),
        ),
    ],
)
def test_a_listed_price_is_read_whole(prices: types.ModelPrice, price: Price | None) -> None:
    assert price_of(prices) == price


@pytest.mark.parametrize(
    ("prices", "text"),
    [
        (
            mtok(
                input_mtok=tiered("3", (200_000, "6"), (500_000, "9")),
                cache_read_mtok=tiered("0.3", (200_000, "0.6")),
                output_mtok=tiered("15", (200_000, "22.5")),
            ),
            "3/0.3/15 >200k 6/0.6/22.5 >500k 9/0.6/22.5",
        ),
        # Each part has tiers of its own.
        (
            mtok(
                input_mtok=Decimal(1),
                cache_read_mtok=tiered("1", (1_000, "3")),
                output_mtok=Decimal(2),
                output_reasoning_mtok=tiered("2", (2_000, "4")),
            ),
            "1/1/2 >1k 1/3/2 >2k 1/3/2/4",
        ),
        # What is not priced by itself costs what its whole does, in every tier.
        (
            mtok(input_mtok=tiered("1", (10_000, "2")), output_mtok=tiered("3", (10_000, "4"))),
            "1/1/3 >10k 2/2/4",
        ),
        (mtok(input_mtok=tiered("1", (10_000, "1"))), "1/1/0"),
        (mtok(input_mtok=tiered("2", (10_000, "1"))), "2/2/0 >10k 1/1/0"),
    ],
)
def test_the_tiers_of_a_listed_price_are_read(prices: types.ModelPrice, text: str) -> None:
    price = price_of(prices)
    assert price is not None
    assert price.text == text


# ---- prices that change ---------------------------------------------------------------------


def test_a_price_that_changes_is_the_one_of_the_moment() -> None:
    """By date, and by the time of the day."""
    changing = 0
    for provider in PROVIDERS.values():
        for model in provider.models:
            if not isinstance(model.prices, list):
                continue
            seen = set()
            for moment in moments(model.prices):
                ((entry,)) = listed([model], moment)
                assert entry.price == price_of(model.get_prices(moment))
                seen.add(entry.price)
            changing += len(seen) > 1
    assert changing > 20


def moments(prices: list[types.ConditionalPrice]) -> Iterator[datetime]:
    """Just before and at every change."""
    yield NOW
    for price in prices:
        match price.constraint:
            case types.StartDateConstraint(start_date=day):
                change = datetime(day.year, day.month, day.day, tzinfo=UTC)
                yield from (change - timedelta(seconds=1), change)
            case types.TimeOfDateConstraint(start_time=start, end_time=end):
                for time in (start, end):
                    change = datetime.combine(NOW.date(), time)
                    yield from (change - timedelta(seconds=1), change)
            case None:
                continue  # what holds when nothing else does


FLAT, DEAR = mtok(input_mtok=Decimal(1)), mtok(input_mtok=Decimal(2))
Constraint = types.StartDateConstraint | types.TimeOfDateConstraint | None


def changing(*prices: tuple[Constraint, types.ModelPrice]) -> types.ModelInfo:
    conditional = [types.ConditionalPrice(constraint, prices=price) for constraint, price in prices]
    return types.ModelInfo(id="m", match=types.ClauseEquals("m"), prices=conditional)


def since(day: int) -> types.StartDateConstraint:
    return types.StartDateConstraint(date(2026, 11, day))


def daily(start: int, end: int, zone: timezone | None = UTC) -> types.TimeOfDateConstraint:
    return types.TimeOfDateConstraint(time(start, tzinfo=zone), time(end, tzinfo=zone))


def at(day: int, hour: int = 0) -> datetime:
    return datetime(2026, 11, day, hour, tzinfo=UTC)


@pytest.mark.parametrize(
    ("prices", "change"),  # it is the 23rd, at 12 o'clock
    [
        ([(None, FLAT)], None),
        ([(None, FLAT), (since(23), DEAR)], None),
        ([(None, FLAT), (since(24), DEAR)], at(24)),
        ([(None, FLAT), (since(24), FLAT)], None),
        ([(None, FLAT), (since(24), FLAT), (since(26), DEAR)], at(26)),
        ([(None, FLAT), (since(26), DEAR), (since(24), DEAR)], at(24)),
        ([(None, FLAT), (daily(13, 14), DEAR)], at(23, 13)),
        ([(None, FLAT), (daily(12, 14), DEAR)], at(23, 14)),
        ([(None, FLAT), (daily(10, 12), DEAR)], at(24, 10)),
        ([(None, FLAT), (daily(22, 6), DEAR)], at(23, 22)),
        ([(None, FLAT), (daily(10, 11), FLAT)], None),
        ([(None, FLAT), (daily(13, 14, None), DEAR)], at(23, 13)),
        ([(None, FLAT), (daily(15, 16, timezone(timedelta(hours=2))), DEAR)], at(23, 13)),
        ([(None, FLAT), (daily(23, 1, timezone(timedelta(hours=-9))), DEAR)], at(24, 8)),
        # What holds from tomorrow on is not told from today's by the night, until that ends.
        ([(None, FLAT), (since(24), DEAR), (daily(22, 6), FLAT)], at(24, 6)),
        # What is dearer by day now will be so no more.
        ([(None, FLAT), (daily(8, 10), DEAR), (since(24), FLAT)], None),
    ],
)
def test_the_first_change_of_a_price_is_known(
    prices: list[tuple[Constraint, types.ModelPrice]], change: datetime | None
) -> None:
    assert next_change([changing(*prices)], NOW) == change


def test_the_first_change_of_many_is_the_first_of_any() -> None:
    slow, fast = (
        changing((None, FLAT), (since(26), DEAR)),
        changing((None, FLAT), (since(24), DEAR)),
    )
    still, unsold = types.ModelInfo(id="m", match=types.ClauseEquals("m"), prices=FLAT), changing()
    assert next_change([still, slow, unsold, fast, slow], NOW) == at(24)
    assert next_change([still, unsold], NOW) is None


constraints = (
    st.builds(since, st.integers(21, 27))
    | st.builds(daily, st.integers(0, 23), st.integers(0, 23))
    | st.none()
)


@given(
    st.lists(st.tuples(constraints, st.sampled_from([FLAT, DEAR])), min_size=1, max_size=4),
    st.integers(0, 23 * 4),
)
def test_no_change_is_missed_and_none_is_made_up(
    prices: list[tuple[Constraint, types.ModelPrice]], quarter: int
) -> None:
    model, now = changing(*prices), at(23) + timedelta(minutes=15 * quarter)
    first = now.replace(minute=0) + timedelta(hours=1)
    hours = [first + timedelta(hours=hour) for hour in range(24 * 6)]
    others = [hour for hour in hours if model.get_prices(hour) != model.get_prices(now)]
    assert next_change([model], now) == (others[0] if others else None)


@pytest.mark.parametrize(
    ("upstream", "now"),
    [
        ("deep", NOW),
        ("deep", at(24, 6)),
        ("vertex", NOW),
        ("vertex", datetime(2026, 12, 1, tzinfo=UTC)),
        ("openai", datetime(2026, 7, 29, 13, 14, 15, 16, tzinfo=UTC)),
        ("router", datetime(2026, 10, 19, 23, 59, 58, 999_999, tzinfo=UTC)),
    ],
)
def test_a_table_is_true_until_it_says_and_no_longer(upstream: str, now: datetime) -> None:
    asked = {upstream: UPSTREAMS[upstream]}
    table = table_of(asked, now)
    assert table.valid_until_ms is not None
    change = datetime.fromtimestamp(table.valid_until_ms / 1_000, UTC)

    assert change > now
    for share in (0.3, 0.6, 0.9):
        assert table_of(asked, now + share * (change - now)).listed == table.listed
    assert table_of(asked, change - timedelta(milliseconds=1)).listed == table.listed
    assert table_of(asked, change).listed != table.listed


def test_a_table_of_prices_that_stay_is_true_for_good() -> None:
    later = datetime(2040, 1, 1, tzinfo=UTC)
    assert table_of({"claude": UPSTREAMS["claude"]}, later).valid_until_ms is None
    assert table_of({}, NOW).valid_until_ms is None


# ---- the process ----------------------------------------------------------------------------


def test_reading_the_list_asks_nobody_over_a_network() -> None:
    script = """
import sys
def refuse(event, _arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        sys.exit("it asked")
sys.addaudithook(refuse)
from llmrouter.daemon import pricereader
pricereader.main()
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        input=b'{"openai": "https://api.openai.com/v1"}',
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"gpt-4o" in done.stdout
