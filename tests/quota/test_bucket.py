"""Buckets: against plain ones of fractions and dates, and at the points where they turn."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.contracts.rule import BUDGET_WINDOWS, RATE_PERIODS_MS, Kind, Rule
from llmrouter.quota.bucket import Budget, Rate, Saved, Slots, bucket_of
from llmrouter.quota.window import DAY_MS, HOUR_MS
from tests.quota.reference import reference_of

NOW = 1_767_225_600_000  # 2026-01-01
MINUTE = Rule(kind=Kind.REQUESTS, amount=60, per="minute")
DAY = Rule(kind=Kind.USD, amount=1_000, per="day")
SLOTS = Rule(kind=Kind.CONCURRENT, amount=5)

_RATES = st.builds(
    Rule,
    kind=st.just(Kind.TOKENS),
    amount=st.integers(1, 5) | st.integers(1, 10**9),
    per=st.sampled_from(sorted(RATE_PERIODS_MS)),
)
_BUDGETS = st.builds(
    Rule,
    kind=st.just(Kind.USD),
    amount=st.integers(1, 10**12),
    per=st.sampled_from(BUDGET_WINDOWS),
)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("time"), st.integers(0, 2_000) | st.integers(0, 10**8)),
        st.tuples(st.just("back"), st.integers(1, 3_000) | st.integers(1, 10**8)),
        st.tuples(st.just("spend"), st.integers(0, 20) | st.integers(0, 10**9)),
        st.tuples(st.just("late"), st.integers(1, 5_000) | st.integers(1, 10**8)),
        st.tuples(st.just("change"), st.integers(1, 5) | st.integers(1, 10**9)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=40,
)


@given(rule=_RATES | _BUDGETS, steps=_STEPS)
def test_agrees_with_a_plain_one_to_the_unit(rule: Rule, steps: list[tuple[str, int]]) -> None:
    """Late spending, changes of the rule, restarts, a clock that is set back: always."""
    now_ms = NOW
    bucket, plain = bucket_of(rule, None, now_ms), reference_of(rule, None, now_ms)
    for step, value in steps:
        if step == "time":
            now_ms += value
        elif step == "back":
            now_ms -= value
        elif step == "spend":
            bucket.spend(value, now_ms, now_ms)
            plain.spend(value, now_ms, now_ms)
        elif step == "late":
            bucket.spend(7, now_ms - value, now_ms)
            plain.spend(7, now_ms - value, now_ms)
        elif step == "change":
            rule = Rule(kind=rule.kind, amount=value, per=rule.per)
            bucket.change(rule, now_ms)
            plain.change(rule, now_ms)
            assert bucket.capacity == value
        else:
            saved = bucket.save(now_ms)
            bucket, plain = bucket_of(rule, saved, now_ms), reference_of(rule, saved, now_ms)
        assert bucket.used(now_ms) == plain.used(now_ms)


@given(
    rule=_RATES,
    spent=st.integers(0, 10**9),
    later=st.integers(0, 10**6),
    falls=st.integers(1, 10**6),
)
def test_what_is_used_falls_when_it_says_and_not_a_millisecond_before(
    rule: Rule, spent: int, later: int, falls: int
) -> None:
    bucket = Rate(rule, None, NOW)
    bucket.spend(spent, NOW, NOW)
    now_ms = NOW + later
    used = bucket.used(now_ms)
    at_ms = bucket.falls_at_ms(falls, now_ms)
    assert at_ms is not None
    if falls <= used:
        assert bucket.used(at_ms - 1) > used - falls
        assert bucket.used(at_ms) <= used - falls
    else:  # what is claimed beyond that will be spent at best now
        bucket.spend(falls - used, now_ms, now_ms)
        spent_at_ms = bucket.falls_at_ms(falls, now_ms)
        assert spent_at_ms is not None
        a_unit_ms = -(-RATE_PERIODS_MS[rule.per] // rule.amount)
        assert abs(spent_at_ms - at_ms) <= a_unit_ms


@given(rule=_RATES, spent=st.integers(0, 10**9), later=st.integers(0, 10**6))
def test_a_rate_is_empty_when_it_says(rule: Rule, spent: int, later: int) -> None:
    bucket = Rate(rule, None, NOW)
    bucket.spend(spent, NOW, NOW)
    now_ms = NOW + later
    at_ms = bucket.resets_at_ms(now_ms)
    assert at_ms is not None
    if bucket.used(now_ms):
        assert bucket.used(at_ms - 1) > 0
    assert bucket.used(at_ms) == 0


# Rates


def test_a_rate_drains_continuously() -> None:
    bucket = Rate(MINUTE, None, NOW)
    bucket.spend(60, NOW, NOW)

    assert [bucket.used(NOW + ms) for ms in (0, 1, 999, 1_000, 30_000, 59_001, 60_000)] == [
        60, 60, 60, 59, 30, 1, 0,
    ]  # fmt: skip


def test_what_was_spent_a_while_ago_has_drained_meanwhile() -> None:
    bucket = Rate(MINUTE, None, NOW)
    bucket.spend(10, NOW - 4_000, NOW)
    assert bucket.used(NOW) == 6
    bucket.spend(10, NOW - 4_000, NOW)  # it was not empty then
    assert bucket.used(NOW) == 16


def test_nothing_drains_by_looking_with_an_older_time() -> None:
    """A caller may have noted the time before another one spent."""
    bucket = Rate(MINUTE, None, NOW)
    bucket.spend(60, NOW, NOW)
    for _ in range(1_000):
        bucket.used(NOW + 10_000)
        bucket.used(NOW + 9_999)
    assert bucket.used(NOW + 10_000) == 50
    assert bucket.falls_at_ms(1, NOW + 9_000) == NOW + 11_000
    assert bucket.resets_at_ms(NOW + 9_000) == NOW + 60_000


def test_a_clock_that_was_set_back_gives_nothing_away() -> None:
    bucket = Rate(MINUTE, None, NOW)
    yesterday = NOW - DAY_MS
    bucket.spend(60, yesterday, yesterday)
    assert bucket.used(yesterday) == 60
    bucket.spend(10, yesterday - 1_000, yesterday)
    assert bucket.used(NOW + 1_000) == 69


def test_a_restart_with_the_clock_set_back_gives_nothing_away() -> None:
    saved = Saved(used=60, at_ms=NOW)
    bucket = Rate(MINUTE, saved, NOW - DAY_MS)

    assert bucket.used(NOW - DAY_MS) == 60
    assert bucket.used(NOW - DAY_MS + 30_000) == 30


def test_saved_with_an_older_time_it_is_not_drained_twice() -> None:
    bucket = Rate(MINUTE, None, NOW)
    bucket.spend(60, NOW, NOW)
    assert bucket.used(NOW + 10_000) == 50
    saved = bucket.save(NOW)
    assert Rate(MINUTE, saved, NOW + 10_000).used(NOW + 10_000) == 50


def test_a_changed_rate_keeps_what_was_used_and_drains_at_its_own_pace() -> None:
    bucket = Rate(MINUTE, None, NOW)
    bucket.spend(60, NOW, NOW)
    bucket.change(Rule(kind=Kind.REQUESTS, amount=6, per="minute"), NOW)
    assert (bucket.capacity, bucket.used(NOW), bucket.used(NOW + 10_000)) == (6, 60, 59)


def test_a_burst_is_what_a_rate_holds() -> None:
    rule = Rule(kind=Kind.REQUESTS, amount=60, per="minute", burst=5)
    assert Rate(rule, None, NOW).capacity == 5


# Budgets


@pytest.mark.parametrize(
    ("at_ms", "now_ms", "used"),
    [
        (NOW + DAY_MS, NOW + DAY_MS, 7),  # the new window's
        (NOW + DAY_MS - 1, NOW + DAY_MS, 0),  # of the old one, told late
        (NOW + DAY_MS - 1, NOW + DAY_MS - 1, 107),
    ],
)
def test_a_budget_counts_what_was_spent_in_its_window(at_ms: int, now_ms: int, used: int) -> None:
    bucket = Budget(DAY, None, NOW)
    bucket.spend(100, NOW, NOW)
    bucket.spend(7, at_ms, now_ms)
    assert bucket.used(now_ms) == used


def test_a_budget_stays_spent_when_the_clock_is_set_back_over_its_start() -> None:
    bucket = Budget(DAY, None, NOW)
    bucket.spend(1_000, NOW, NOW)
    yesterday = NOW - HOUR_MS
    assert bucket.used(yesterday) == 1_000
    bucket.spend(5, yesterday, yesterday)
    assert bucket.used(yesterday) == 1_005
    assert bucket.resets_at_ms(yesterday) == NOW + DAY_MS
    assert bucket.used(NOW + DAY_MS) == 0


@pytest.mark.parametrize(
    ("per", "falls", "at_ms"),
    [
        ("day", 100, NOW + DAY_MS),
        ("day", 101, None),  # it never will fall by more than is used
        ("total", 1, None),
    ],
)
def test_a_budget_falls_with_its_window(per: str, falls: int, at_ms: int | None) -> None:
    bucket = Budget(Rule(kind=Kind.USD, amount=1_000, per=per), None, NOW)
    bucket.spend(100, NOW, NOW)
    assert bucket.falls_at_ms(falls, NOW) == at_ms


def test_a_changed_budget_keeps_what_was_used() -> None:
    bucket = Budget(DAY, None, NOW)
    bucket.spend(900, NOW, NOW)
    bucket.change(Rule(kind=Kind.USD, amount=500, per="day"), NOW)
    assert (bucket.capacity, bucket.used(NOW)) == (500, 900)
    assert bucket.save(NOW) == Saved(used=900, at_ms=NOW)


# Calls at once


def test_slots_are_never_used_up_for_good() -> None:
    bucket = Slots(SLOTS)
    assert (bucket.capacity, bucket.used(NOW)) == (5, 0)
    assert (bucket.falls_at_ms(1, NOW), bucket.resets_at_ms(NOW)) == (None, None)
    bucket.change(Rule(kind=Kind.CONCURRENT, amount=2), NOW)
    assert (bucket.capacity, bucket.save(NOW)) == (2, Saved())
    with pytest.raises(AssertionError):
        bucket.spend(1, NOW, NOW)


@pytest.mark.parametrize(("rule", "kind"), [(MINUTE, Rate), (DAY, Budget), (SLOTS, Slots)])
def test_every_kind_of_rule_has_its_bucket(rule: Rule, kind: type[object]) -> None:
    assert type(bucket_of(rule, None, NOW)) is kind
