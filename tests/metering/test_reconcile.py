"""Both sides compared: what differs, by how much, and what is one model under two names."""

from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.metering.exports import DayUsage
from llmrouter.metering.reconcile import (
    JUDGED,
    Difference,
    Line,
    Measure,
    Reconciliation,
    reconcile,
)

DAY = "2026-11-23"
OURS = DayUsage(DAY, "gpt-4o-2024-08-06", 10, 1000, 200, 300, 5_000_000)


def same(**changes: object) -> DayUsage:
    return msgspec.structs.replace(OURS, **changes)


def only(found: Reconciliation) -> Line:
    (line,) = found.lines
    return line


def keys(found: Reconciliation) -> list[tuple[str | None, str | None]]:
    return [(line.day, line.model) for line in found.lines]


def agrees(found: Reconciliation) -> bool:
    return not found.exceeding


# ---- amounts ----------------------------------------------------------------------------------


def test_two_that_say_the_same_agree() -> None:
    found = reconcile([OURS], [OURS])

    assert agrees(found)
    assert [each.measure for each in only(found).differences] == list(Measure)
    assert {each.percent for each in only(found).differences} == {0.0}


@pytest.mark.parametrize("measure", Measure)
def test_a_difference_is_judged_unless_providers_count_it_otherwise(measure: Measure) -> None:
    amount = getattr(OURS, measure) * 2
    line = only(reconcile([OURS], [same(**{measure: amount})]))

    (off,) = (each for each in line.differences if each.ours != each.theirs)
    assert (off.measure, off.amount, off.percent) == (measure, -amount // 2, -50.0)
    assert off.exceeds is (measure in JUDGED)
    assert line.exceeds is off.exceeds


@pytest.mark.parametrize(
    ("theirs", "tolerance", "exceeds"),
    [
        (1010, Fraction(1), False), (1000, Fraction(0), False), (1011, Fraction(1), True),
        (990, Fraction(1), True), (991, Fraction(1), False), (999, Fraction(0), True),
        (10**15, Fraction(100), False), (499, Fraction(100), True),
    ],
)  # fmt: skip
def test_the_tolerance_is_in_percent_of_theirs_and_exact(
    theirs: int, tolerance: Fraction, exceeds: bool
) -> None:
    assert only(reconcile([OURS], [same(prompt_tokens=theirs)], tolerance)).exceeds is exceeds


@pytest.mark.parametrize(("nano", "exceeds"), [(0, False), (5, False), (6, True), (-6, True)])
def test_what_rounding_each_call_may_come_to_is_no_difference(nano: int, exceeds: bool) -> None:
    cost = 5_000_000 + nano

    assert only(reconcile([OURS], [same(cost_nano_usd=cost)])).exceeds is exceeds


def test_only_what_the_export_says_is_compared() -> None:
    line = only(reconcile([OURS], [DayUsage(DAY, OURS.model, cost_nano_usd=5_000_000)]))

    assert line.differences == [Difference(Measure.COST_NANO_USD, 5_000_000, 5_000_000, False)]


def test_an_export_of_no_usage_says_that_there_was_none() -> None:
    found = reconcile([OURS], [])

    assert only(found).exceeds
    assert only(found).differences[0] == Difference(Measure.CALLS, 10, 0, False)
    assert only(found).differences[0].percent is None


def test_what_one_side_alone_has_stands_beside_nothing() -> None:
    found = reconcile([same(day="2026-11-22")], [same(day="2026-11-24")], Fraction(100))

    assert keys(found) == [("2026-11-22", OURS.model), ("2026-11-24", OURS.model)]
    assert [line.exceeds for line in found.lines] == [True, False]
    assert [each.amount for each in found.total.differences] == [0, 0, 0, 0, 0]


def test_usage_and_cost_of_two_files_are_one_line() -> None:
    usage = same(cost_nano_usd=None)
    cost = DayUsage(DAY, OURS.model, cost_nano_usd=5_000_000)

    assert agrees(reconcile([OURS], [usage, cost]))
    assert len(reconcile([OURS], [usage, cost]).lines) == 1


# ---- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("gpt-4o", "gpt-4o-2024-08-06"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("claude-3-5-haiku-latest", "claude-3-5-haiku-20241022"),
        ("claude-haiku-4-5-20251001", "Claude Haiku 4.5"),
        ("claude-3-5-sonnet-20241022", "Claude 3.5 Sonnet 2024-10-22"),
        ("gpt-4", "gpt-4-0613"),
        ("Meta/Llama-3.1", "meta/llama-3-1"),
    ],
)
def test_these_are_the_same_model(ours: str, theirs: str) -> None:
    found = reconcile([same(model=ours)], [same(model=theirs)])

    assert len(found.lines) == 1
    assert agrees(found)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("gpt-4o", "gpt-4o-mini"),
        ("gpt-4o-2024-05-13", "gpt-4o-2024-08-06"),
        ("gpt-4", "gpt-4-32k"),
        ("claude-3-5-haiku-20241022", "claude-haiku-4-5-20251001"),
    ],
)
def test_these_are_two_models(ours: str, theirs: str) -> None:
    assert len(reconcile([same(model=ours)], [same(model=theirs)]).lines) == 2


def test_versions_are_told_apart_as_long_as_both_sides_do() -> None:
    versions = [same(model="gpt-4o-2024-05-13"), same(model="gpt-4o-2024-08-06")]
    also = same(model="gpt-4o")

    assert keys(reconcile(versions, versions[1:])) == [(DAY, each.model) for each in versions]
    assert keys(reconcile([*versions, also], versions)) == [(DAY, "gpt-4o")]
    assert len(reconcile([*versions, also], [*versions, also]).lines) == 3


def test_an_export_without_models_is_compared_with_all_of_ours() -> None:
    theirs = DayUsage(DAY, None, cost_nano_usd=10_000_000)

    found = reconcile([OURS, same(model="gpt-4o-mini")], [theirs])

    assert keys(found) == [(DAY, None)]
    assert agrees(found)


def test_what_names_no_model_among_models_stands_alone() -> None:
    found = reconcile([OURS], [OURS, DayUsage(DAY, None, cost_nano_usd=1_000)])

    assert keys(found) == [(DAY, None), (DAY, OURS.model)]
    assert [line.exceeds for line in found.lines] == [True, False]


# ---- always -----------------------------------------------------------------------------------

amounts = st.none() | st.integers(0, 10**18)
usages = st.lists(
    st.builds(
        DayUsage,
        st.sampled_from(["2026-11-22", DAY]),
        st.none() | st.sampled_from(["a", "a-2024-08-06", "A 20240806", "b-latest"]) | st.text(),
        amounts, amounts, amounts, amounts, amounts,
    )
)  # fmt: skip


@given(usages, usages)
def test_the_total_is_the_sum_of_the_lines_and_loses_nothing(
    ours: list[DayUsage], theirs: list[DayUsage]
) -> None:
    found = reconcile(ours, theirs)

    for number, total in enumerate(found.total.differences):
        column = [line.differences[number] for line in found.lines]
        assert total.ours == sum(each.ours for each in column)
        assert total.ours == sum(getattr(each, total.measure) or 0 for each in ours)
        assert total.theirs == sum(each.theirs for each in column)
        assert total.theirs == sum(getattr(each, total.measure) or 0 for each in theirs)
    assert keys(found) == sorted(
        set(keys(found)), key=lambda key: (key[0] or "", key[1] is not None, key[1] or "")
    )


@given(usages, usages, st.integers(0, 100))
def test_where_every_line_agrees_the_total_does(
    ours: list[DayUsage], theirs: list[DayUsage], tolerance: int
) -> None:
    found = reconcile(ours, theirs, Fraction(tolerance))

    assert found.exceeding or not found.total.exceeds


def test_roundings_of_many_lines_add_up_in_the_total() -> None:
    ours = [same(day=f"2026-11-{day}", calls=1) for day in range(10, 20)]
    theirs = [msgspec.structs.replace(each, cost_nano_usd=5_000_001) for each in ours]

    assert not reconcile(ours, theirs).total.exceeds


@given(usages)
def test_whatever_it_is_it_agrees_with_itself(both: list[DayUsage]) -> None:
    assert agrees(reconcile(both, both))


@given(usages, usages, st.integers(0, 100), st.integers(0, 100))
def test_what_agrees_agrees_also_with_more_tolerance(
    ours: list[DayUsage], theirs: list[DayUsage], less: int, more: int
) -> None:
    if agrees(reconcile(ours, theirs, Fraction(less))):
        assert agrees(reconcile(ours, theirs, Fraction(less + more)))
