"""The verdict: why there is no room, how long that may be waited for, and when there will be."""

import pytest

from llmrouter.contracts.rule import QUEUE, Kind, Rule, Scope
from llmrouter.quota.bucket import bucket_of
from llmrouter.quota.ledger import Entry
from llmrouter.quota.messages import Ask, Reason, Refused
from llmrouter.quota.rulebook import Bucketed
from llmrouter.quota.verdict import Verdict, Waiter, verdict
from llmrouter.quota.window import DAY_MS

NOW = 1_767_225_600_000  # midnight
RATE = Rule(kind=Kind.TOKENS, amount=60, per="minute")
QUEUED = Rule(kind=Kind.TOKENS, amount=60, per="minute", at_limit=QUEUE, wait_ms=20_000)
DAY = Rule(kind=Kind.USD, amount=100, per="day")
TOTAL = Rule(kind=Kind.USD, amount=100, per="total")
SLOTS = Rule(kind=Kind.CONCURRENT, amount=2)
QUEUED_SLOTS = Rule(kind=Kind.CONCURRENT, amount=2, at_limit=QUEUE, wait_ms=20_000)
HOLD_WAIT = 2_000


def judged(rule: Rule, used: int, claimed: int, least: int, *, waited_ms: int = 0) -> Verdict:
    scope = Scope(kind="org", name="acme")
    found = Bucketed(bucket=scope.bucket(rule), scope=scope, rule=rule)
    entry = Entry(found, bucket_of(rule, None, NOW))
    if used:
        entry.bucket.spend(used, NOW, NOW)
    entry.claims["boot"] = claimed
    waiter = Waiter(7, NOW - waited_ms, HOLD_WAIT)
    return verdict(waiter, entry, Ask(entry.name, least, least), NOW)


@pytest.mark.parametrize(
    ("rule", "used", "claimed", "least", "reason", "wait_ms", "retry_s"),
    [
        (RATE, 60, 0, 1, Reason.SPENT, 0, 1),
        (RATE, 30, 0, 31, Reason.SPENT, 0, 1),
        (RATE, 60, 10, 5, Reason.SPENT, 0, 15),  # what is claimed is taken for spent
        (RATE, 60, 0, 61, Reason.TOO_LARGE, 0, None),
        (RATE, 30, 30, 30, Reason.HELD, HOLD_WAIT, None),
        (QUEUED, 60, 0, 20, Reason.SPENT, 20_000, 20),
        (QUEUED, 60, 0, 21, Reason.SPENT, 0, 21),  # too late for whoever waits no longer
        (QUEUED, 30, 30, 30, Reason.HELD, 20_000, None),
        (DAY, 100, 0, 1, Reason.SPENT, 0, DAY_MS // 1_000),
        (DAY, 100, 100, 1, Reason.SPENT, 0, None),  # a new day does not give back what is held
        (DAY, 0, 100, 1, Reason.HELD, HOLD_WAIT, None),
        (TOTAL, 100, 0, 1, Reason.SPENT, 0, None),
        (TOTAL, 0, 0, 101, Reason.TOO_LARGE, 0, None),
        (SLOTS, 0, 2, 1, Reason.OCCUPIED, 0, None),
        (QUEUED_SLOTS, 0, 2, 1, Reason.OCCUPIED, 20_000, None),
    ],
)
def test_says_why_and_how_long_and_when(
    rule: Rule,
    used: int,
    claimed: int,
    least: int,
    reason: Reason,
    wait_ms: int,
    retry_s: int | None,
) -> None:
    found = judged(rule, used, claimed, least)
    retry_at_ms = None if retry_s is None else NOW + retry_s * 1_000
    assert (found.refused.reason, found.wait_ms) == (reason, wait_ms)
    assert found.refused.retry_at_ms == retry_at_ms
    assert found.refused.left == rule.amount - used - claimed


def test_says_when_nothing_is_used_any_more() -> None:
    assert judged(RATE, 30, 0, 31).refused.resets_at_ms == NOW + 30_000
    assert judged(DAY, 100, 0, 1).refused.resets_at_ms == NOW + DAY_MS
    assert judged(TOTAL, 100, 0, 1).refused.resets_at_ms is None


def test_time_already_waited_counts() -> None:
    assert judged(QUEUED, 60, 0, 20, waited_ms=1).wait_ms == 0
    assert judged(QUEUED, 60, 0, 19, waited_ms=1_000).wait_ms == 20_000


@pytest.mark.parametrize(
    ("rule", "reason"), [(SLOTS, Reason.OCCUPIED), (QUEUED_SLOTS, Reason.WAITED)]
)
def test_who_waited_in_a_queue_in_vain_is_told_so(rule: Rule, reason: Reason) -> None:
    late = judged(rule, 0, 2, 1).late()
    assert late == Refused(7, f"org/acme/{rule.name}", reason, 0, NOW)
