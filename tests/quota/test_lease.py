"""A lease: what it refuses without asking, and when it says to come back."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.contracts.rule import RATE_PERIODS_MS, Kind, Rule, Scope
from llmrouter.quota.bucket import Rate
from llmrouter.quota.lease import (
    BUSY_MS,
    CLOSED_MS,
    CONCURRENT,
    FULL_MS,
    REQUESTS,
    STRICT_USD,
    TOKENS,
    USD,
    Account,
    Lease,
    unit_of,
)
from llmrouter.quota.messages import Reason, Refused
from llmrouter.quota.rulebook import Bucketed

NOW = 1_767_225_600_000
ORG = Scope(kind="org", name="acme")
RATE = Rule(kind=Kind.TOKENS, amount=60, per="minute")
MONEY = Rule(kind=Kind.USD, amount=1_000, per="day")
STRICT = Rule(kind=Kind.USD, amount=1_000, per="day", strict=True)
SLOTS = Rule(kind=Kind.CONCURRENT, amount=5)


def lease(rule: Rule) -> Lease:
    return Lease(Bucketed(bucket=ORG.bucket(rule), scope=ORG, rule=rule))


def closed(
    rule: Rule,
    reason: Reason,
    *,
    least: int,
    left: int,
    retry_at_ms: int | None = None,
    resets_at_ms: int | None = None,
) -> Lease:
    """One that the ledger has refused at NOW."""
    found = lease(rule)
    found.closed = Refused(1, found.name, reason, left, NOW, retry_at_ms, resets_at_ms)
    found.closed_least = least
    return found


@pytest.mark.parametrize(
    ("rule", "unit"),
    [
        (Rule(kind=Kind.REQUESTS, amount=1, per="second"), REQUESTS),
        (RATE, TOKENS),
        (MONEY, USD),
        (STRICT, STRICT_USD),
        (SLOTS, CONCURRENT),
    ],
)
def test_every_rule_takes_its_part_of_a_call(rule: Rule, unit: int) -> None:
    assert unit_of(rule) == lease(rule).unit == unit


# Refusing without asking


@pytest.mark.parametrize("amount", [0, 1, 60])
def test_refuses_nothing_that_the_ledger_has_not_refused(amount: int) -> None:
    assert lease(RATE).refuses(amount, NOW) is None


def test_what_never_fits_needs_no_ledger() -> None:
    refused = lease(RATE).refuses(61, NOW)
    assert refused is not None
    assert (refused.reason, refused.retry_at_ms) == (Reason.TOO_LARGE, None)


@pytest.mark.parametrize(
    ("free", "amount", "fits"),
    [(0, 3, True), (0, 4, False), (2, 5, True), (2, 6, False), (0, 0, True)],
)
def test_asks_for_what_may_fit_and_for_nothing_else(free: int, amount: int, fits: bool) -> None:
    for found in (
        closed(MONEY, Reason.SPENT, least=4, left=3, resets_at_ms=NOW + 5_000),
        closed(SLOTS, Reason.OCCUPIED, least=4, left=3) if amount <= 5 else None,
    ):
        if found is not None:
            found.free = free
            assert (found.refuses(amount, NOW) is None) == fits


def test_an_overdrawn_bucket_is_closed_to_all() -> None:
    found = closed(MONEY, Reason.SPENT, least=4, left=-3)
    assert found.refuses(1, NOW) is not None


@pytest.mark.parametrize("after_ms", [CLOSED_MS, CLOSED_MS + 1, -1])
def test_asks_again_after_a_second_or_when_the_clock_was_set_back(after_ms: int) -> None:
    found = closed(MONEY, Reason.SPENT, least=4, left=3)
    assert found.refuses(4, NOW + CLOSED_MS - 1) is not None
    assert found.refuses(4, NOW + after_ms) is None
    assert found.closed is None


def test_a_new_window_opens_it() -> None:
    found = closed(MONEY, Reason.SPENT, least=4, left=3, resets_at_ms=NOW + 5)
    refused = found.refuses(4, NOW + 4)
    assert refused is not None
    assert (refused.retry_at_ms, refused.resets_at_ms) == (NOW + 5, NOW + 5)
    assert found.refuses(4, NOW + 5) is None


def test_nobody_knows_when_a_slot_is_free() -> None:
    refused = closed(SLOTS, Reason.OCCUPIED, least=1, left=0).refuses(1, NOW)
    assert refused == Refused(0, "org/acme/concurrent", Reason.OCCUPIED, 0, NOW)


@pytest.mark.parametrize(
    ("free", "amount", "retry_ms"),
    [(0, 10, 500), (0, 11, 1_500), (0, 12, 2_500), (1, 11, 500), (0, 9, None)],
)
def test_goes_by_the_time_that_the_ledger_gave(
    free: int, amount: int, retry_ms: int | None
) -> None:
    """10 were asked for, and fit in half a second; one more takes a second more."""
    found = closed(RATE, Reason.SPENT, least=10, left=9, retry_at_ms=NOW + 500)
    found.free = free
    refused = found.refuses(amount, NOW)
    assert (None if refused is None else refused.retry_at_ms) == (
        None if retry_ms is None else NOW + retry_ms
    )


def test_asks_at_the_very_time_at_which_it_fits() -> None:
    found = closed(RATE, Reason.SPENT, least=10, left=9, retry_at_ms=NOW + 500)
    assert found.refuses(10, NOW + 499) is not None
    assert found.refuses(10, NOW + 500) is None


@given(
    rule=st.builds(
        Rule,
        kind=st.just(Kind.TOKENS),
        amount=st.integers(1, 5) | st.integers(1, 10**7),
        per=st.sampled_from(sorted(RATE_PERIODS_MS)),
    ),
    beyond=st.integers(0, 10**6),
    before_ms=st.integers(0, 10**8),
    asked_share=st.fractions(0, 1),
    share=st.fractions(0, 1),
    later_ms=st.integers(0, CLOSED_MS - 1),
)
def test_says_to_come_back_when_it_fits_never_early_and_not_late(
    rule: Rule,
    beyond: int,
    before_ms: int,
    asked_share: Fraction,
    share: Fraction,
    later_ms: int,
) -> None:
    """Whatever was asked of the ledger; and what it lets pass is not refused by the ledger yet."""
    asked, amount = (1 + int(part * (rule.amount - 1)) for part in (asked_share, share))
    drained = before_ms * rule.amount // RATE_PERIODS_MS[rule.per]
    spent = rule.amount - asked + 2 + drained + beyond

    def bucket() -> Rate:
        found = Rate(rule, None, NOW)
        found.spend(spent, NOW - before_ms, NOW)
        return found

    def fits(at_ms: int) -> bool:
        return rule.amount - bucket().used(at_ms) >= amount

    left = rule.amount - bucket().used(NOW)
    assert left < asked
    retry_at_ms = bucket().falls_at_ms(asked - left, NOW)
    found = closed(rule, Reason.SPENT, least=asked, left=left, retry_at_ms=retry_at_ms)
    now_ms = NOW + later_ms
    refused = found.refuses(amount, now_ms)
    if refused is None:
        assert fits(now_ms)
    else:
        assert refused.retry_at_ms is not None
        assert refused.retry_at_ms > now_ms
        assert fits(refused.retry_at_ms)
        assert not fits(refused.retry_at_ms - 3)


# What is left, and how much to ask for


@pytest.mark.parametrize(
    ("left", "free", "after_ms", "remaining"),
    [(10, 0, 0, 10), (10, 5, 0, 15), (10, 5, 2_000, 17), (-9, 5, 0, 0), (59, 5, 9_000, 60)],
)
def test_knows_what_the_bucket_still_admits(
    left: int, free: int, after_ms: int, remaining: int
) -> None:
    found = lease(RATE)
    found.left, found.left_at_ms, found.free = left, NOW, free
    assert found.remaining(NOW + after_ms) == remaining


def test_who_needs_it_often_asks_for_more_and_for_less_when_that_is_over() -> None:
    found = lease(MONEY)
    at_ms, wanted = NOW, []
    for after_ms in (0, 1, 1, BUSY_MS, 4 * BUSY_MS, 4 * BUSY_MS + 1, 10_000, 10_000):
        at_ms += after_ms
        found.pace(1, 5, at_ms)
        found.answered(1)
        wanted.append(found.wanted)
    assert wanted == [5, 10, 20, 20, 20, 10, 5, 5]


def test_who_comes_before_the_answer_asks_for_itself_and_counts_the_next_time() -> None:
    found = lease(MONEY)
    found.wanted, found.asked_at_ms = 20, NOW
    assert [found.pace(number, 5, NOW + 1) for number in range(1, 65)] == [40] + [5] * 63
    found.answered(64)
    assert found.is_led(NOW + 1)
    found.answered(1)
    assert not found.is_led(NOW + 1)
    assert found.pace(65, 5, NOW + 1 + BUSY_MS) == 40 + 63 * 5


def test_an_answer_that_is_long_in_coming_leads_no_more() -> None:
    """A call waits at the ledger for another bucket: meanwhile this one may serve others."""
    found = lease(MONEY)
    asked = [found.pace(number, 5, NOW + number * BUSY_MS // 2) for number in range(1, 5)]
    assert asked == [5, 5, 20, 5]
    found.answered(1)
    assert found.leading == 3


def test_asks_ahead_only_where_much_more_than_one_call_needs_is_wanted() -> None:
    found = lease(MONEY)
    found.wanted = 19
    for after_ms in (0, 1):
        found.pace(1, 5, NOW + after_ms)
        found.answered(1)
    assert (found.wanted, found.low) == (18, 0)
    found.pace(2, 5, NOW + 2)
    assert (found.wanted, found.low) == (36, 9)


def test_follows_a_changed_rule() -> None:
    found = lease(RATE)
    rule = Rule(kind=Kind.TOKENS, amount=10, per="minute", burst=20)
    found.follow(Bucketed(bucket=found.name, scope=ORG, rule=rule))
    assert (found.capacity, found.unit, found.refill(NOW, NOW + 6_000)) == (20, TOKENS, 1)
    assert repr(found) == "<Lease org/acme/tokens/minute free=0 owed=0>"


# Accounts


def test_an_account_knows_what_has_to_be_held() -> None:
    rate, money, strict = lease(RATE), lease(MONEY), lease(STRICT)
    assert not Account((rate,)).has_budget
    assert Account((rate, money)).has_budget
    assert Account((rate,), (money,)).has_budget
    assert [Account((rate, one)).is_strict for one in (money, strict)] == [False, True]
    small = lease(Rule(kind=Kind.TOKENS, amount=7, per="second"))
    assert Account((rate, money, small)).smallest(Kind.TOKENS) == 7
    assert Account((rate,)).smallest(Kind.USD) > 10**15


def test_what_was_met_counts_but_refuses_no_more() -> None:
    rate, money = lease(RATE), lease(MONEY)
    account = Account((rate, money), rules=7).without(rate.name)
    assert account == Account((money,), (rate,), 7)
    assert account.without("org/acme/concurrent") == account


def test_a_refusal_for_want_of_a_place_to_wait_is_remembered_for_a_moment() -> None:
    found = lease(MONEY)
    found.closed = Refused(1, found.name, Reason.HELD, 0, NOW, full=True)
    refused = found.refuses(10, NOW + FULL_MS - 1)
    assert refused is not None
    assert refused.reason is Reason.HELD
    assert found.refuses(10, NOW + FULL_MS) is None
