import msgspec
import pytest

from llmrouter.metering.price import Price, Rates, Tier
from llmrouter.metering.prices import (
    AllOf,
    AnyOf,
    Contains,
    EndsWith,
    Equals,
    Listed,
    PriceBook,
    PriceTable,
    Regex,
    StartsWith,
)

FREE, ONE, TWO, THREE = (Price.of_usd(usd, None, usd) for usd in range(4))

TABLE = PriceTable(
    explicit={"house": ONE, "gpt-*": TWO, "free": Price.of_usd(0, None, 0)},
    providers={"cloud": "other"},
    listed={"other": (Listed(Contains("gpt"), THREE),)},
)


@pytest.mark.parametrize(
    ("model", "upstream", "upstream_model", "price"),
    [
        ("house", "cloud", "gpt-4o", ONE),  # what router.toml says wins over the list
        ("house", "local", "llama", ONE),
        ("gpt-*", "cloud", "gpt-4o", TWO),
        ("free", "cloud", "gpt-4o", Price.of_usd(0, None, 0)),
        ("smart", "cloud", "gpt-4o", THREE),
        ("smart", "cloud", "llama", None),
        ("smart", "local", "gpt-4o", None),  # nobody knows whose prices that has
        ("gpt-4o", "cloud", "llama", None),  # what callers say counts for nothing at the list
    ],
)
def test_a_price_is_the_one_of_router_toml_or_the_list(
    model: str, upstream: str, upstream_model: str, price: Price | None
) -> None:
    book = PriceBook(TABLE)
    assert book.price(model, upstream, upstream_model) == price
    assert repr(book).startswith("<PriceBook explicit=3 <PriceList ")


@pytest.mark.parametrize(
    ("model", "upstream", "upstream_model", "price"),
    [
        ("house", "local", "llama", TWO),  # what stands with the deployment wins over the model's
        ("house", "local", "qwen", ONE),
        ("house", "cloud", "llama", ONE),
        ("smart", "cloud", "gpt-4o", FREE),  # and over the list's; free is a price, too
        ("smart", "cloud", "gpt-4", THREE),
        ("wise", "local", "llama", TWO),  # only for the model that it stands with
        ("wise", "local", "qwen", ONE),  # the name that was asked for is passed on
        ("wise", "locale", "qwen", None),
        ("other", "local", "llama", None),
    ],
)
def test_a_price_may_stand_with_a_deployment(
    model: str, upstream: str, upstream_model: str, price: Price | None
) -> None:
    own = {
        "house": {"local/llama": TWO},
        "smart": {"cloud/gpt-4o": FREE},
        "wise": {"local": ONE, "local/llama": TWO},
    }
    book = PriceBook(msgspec.structs.replace(TABLE, explicit_at=own))

    assert book.price(model, upstream, upstream_model) == price


@pytest.mark.parametrize(
    ("usd", "nano_usd"), [(0, 0), (1, 3_000 * 1_000 + 500 * 1_000), (None, None)]
)
def test_deployments_are_compared_by_what_a_typical_call_costs(
    usd: int | None, nano_usd: int | None
) -> None:
    explicit = {} if usd is None else {"m": Price.of_usd(usd, 0, usd)}
    book = PriceBook(PriceTable(explicit=explicit))

    assert book.typical("m", "up", "m") == nano_usd


def test_a_table_arrives_at_a_worker_as_it_was_sent() -> None:
    clauses = (
        *(Equals("a"), StartsWith("b"), EndsWith("c"), Contains("d"), Regex("e")),
        AllOf((AnyOf((Equals("f"), Regex("g"))), Contains("h"))),
    )
    tier = Tier(200_000, Rates.of_usd(6, "0.60", "22.50"))
    long = msgspec.structs.replace(Price.of_usd(3, "0.30", 15), tiers=(tier,))
    assert long.text  # having been read changes nothing of what is sent
    table = msgspec.structs.replace(
        TABLE,
        explicit_at={"house": {"local": long, "local/llama": TWO}},
        listed={"all": tuple(Listed(clause, long) for clause in clauses), **TABLE.listed},
        valid_until_ms=1_795_000_000_000,
    )

    for encode, decode in (
        (msgspec.msgpack.encode, msgspec.msgpack.decode),
        (msgspec.json.encode, msgspec.json.decode),
    ):
        assert decode(encode(table), type=PriceTable) == table


def test_a_table_without_changes_to_come_is_true_for_good() -> None:
    assert PriceTable().valid_until_ms is None
