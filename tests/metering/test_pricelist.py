from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.metering.price import Price
from llmrouter.metering.pricelist import (
    FOUND_MAX,
    AllOf,
    AnyOf,
    Clause,
    Contains,
    EndsWith,
    Equals,
    Listed,
    PriceList,
    Regex,
    StartsWith,
    dashed,
)

ONE, TWO, THREE = (Price.of_usd(usd, None, usd) for usd in (1, 2, 3))


@pytest.mark.parametrize(
    ("clause", "name", "matches"),
    [
        (Equals("gpt-4o"), "gpt-4o", True),
        (Equals("gpt-4o"), "gpt-4o-mini", False),
        (StartsWith("gpt-4o"), "gpt-4o-mini", True),
        (StartsWith("gpt-4o"), "my-gpt-4o", False),
        (EndsWith("mini"), "gpt-4o-mini", True),
        (EndsWith("mini"), "mini-gpt", False),
        (Contains("4o"), "gpt-4o-mini", True),
        (Contains("4o"), "gpt-5", False),
        (Regex(r"^gpt-\d$"), "gpt-5", True),
        (Regex(r"^gpt-\d$"), "gpt-55", False),
        (Regex(r"-\d"), "gpt-55", True),  # found anywhere
        (Regex("GPT"), "gpt-5", False),  # its case is not touched
        (AnyOf((Equals("a"), Equals("b"))), "b", True),
        (AnyOf((Equals("a"), Equals("b"))), "c", False),
        (AnyOf(()), "a", False),
        (AllOf((StartsWith("a"), EndsWith("c"))), "abc", True),
        (AllOf((StartsWith("a"), EndsWith("c"))), "abcd", False),
        (AllOf(()), "a", True),
        (AllOf((AnyOf((Equals("a"), StartsWith("b"))), Regex("c$"))), "bc", True),
    ],
)
def test_a_clause_matches_names(clause: Clause, name: str, matches: bool) -> None:
    assert clause.matches(name) is matches


@pytest.mark.parametrize(
    ("name", "rewritten"),
    [
        ("gpt-5.2-20251211", "gpt-5.2-2025-12-11"),
        ("a-20240229:free", "a-2024-02-29:free"),
        ("a-20240101-20250101", "a-2024-01-01-2025-01-01"),
        ("a-20240101-b", "a-2024-01-01-b"),
        ("gpt-5.2-2025-12-11", "gpt-5.2-2025-12-11"),
        ("a-20230229", "a-20230229"),  # no leap year
        ("a-20241301", "a-20241301"),
        ("a-19991231", "a-19991231"),
        ("a-202401011", "a-202401011"),
        ("a-20240101x", "a-20240101x"),
        ("20240101", "20240101"),
        ("", ""),
    ],
)
def test_a_date_at_the_end_of_a_part_is_written_with_dashes(name: str, rewritten: str) -> None:
    assert dashed(name) == rewritten


@given(st.dates(date(2000, 1, 1), date(2099, 12, 31)))
def test_every_date_is_rewritten(day: date) -> None:
    assert dashed(f"model-{day:%Y%m%d}") == f"model-{day.isoformat()}"


LISTED = {
    "acme": (
        Listed(Equals("gpt-4o-mini"), ONE),
        Listed(StartsWith("gpt-4o-audio"), None),
        Listed(StartsWith("gpt-4o"), TWO),
        Listed(Equals("gpt-5-2025-12-11"), THREE),
        Listed(Equals("claude-20250101"), ONE),
        Listed(Equals("claude-2025-01-01"), TWO),
    ),
    "other": (Listed(Contains("gpt"), THREE),),
}


@pytest.mark.parametrize(
    ("provider", "model", "price"),
    [
        ("acme", "gpt-4o-mini", ONE),
        ("acme", "GPT-4o-Mini", ONE),
        ("acme", "gpt-4o-2024-08-06", TWO),
        ("acme", "gpt-4o-audio-1", None),  # listed, but not by the token
        ("acme", "gpt-5-2025-12-11", THREE),
        ("acme", "gpt-5-20251211", THREE),
        ("acme", "claude-20250101", ONE),  # as it is before as it may be written
        ("acme", "gpt-5", None),
        ("other", "gpt-4o-mini", THREE),
        ("nobody", "gpt-4o-mini", None),
    ],
)
def test_the_first_entry_that_matches_says_the_price(
    provider: str, model: str, price: Price | None
) -> None:
    known = PriceList(LISTED)
    assert known.find(provider, model) == price
    assert known.find(provider, model) == price  # remembered
    assert repr(known) == "<PriceList providers=2 found=1>"


def test_names_that_callers_make_up_are_not_remembered_without_end() -> None:
    known = PriceList(LISTED)
    most = 0
    for number in range(FOUND_MAX + 2):
        assert known.find("other", f"gpt-{number}") == THREE
        most = max(most, len(known._found))
    assert most == FOUND_MAX
    assert repr(known) == "<PriceList providers=2 found=2>"
    assert known.find("other", "gpt-0") == THREE
