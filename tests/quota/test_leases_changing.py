"""A worker's leases when calls leave, the ledger goes, or rules change under those that run."""

import pytest

from llmrouter.contracts.rule import Kind, Rule
from llmrouter.quota.messages import Amount, Cancel, GiveBack, Reason, Recall, Recalled
from tests.quota.alone import (
    CALL,
    LATER,
    MONEY,
    RATE,
    REQUEST,
    STRICT,
    TOKENS,
    Bench,
    T,
    U,
    granted,
    refused,
)

# Calls that go


def test_a_grant_that_crosses_its_cancel_is_given_back_in_time() -> None:
    bench = Bench(TOKENS)
    take_id = bench.ask()
    bench.leases.cancel(take_id)
    assert bench.said()[1:] == [Cancel(take_id)]
    bench.hear(granted(take_id, 100))
    assert (bench.answers, bench.free()) == ([], [100])
    for _ in range(2):
        bench.leases.sweep()
    assert bench.said() == [GiveBack((Amount(T, 100),))]
    assert not bench.leases._asked


@pytest.mark.parametrize("reason", [Reason.HELD, Reason.SPENT])
def test_a_refusal_that_crosses_its_cancel_is_told_to_nobody(reason: Reason) -> None:
    bench = Bench(TOKENS)
    take_id = bench.ask()
    bench.leases.cancel(take_id)
    bench.hear(refused(take_id, T, reason))
    assert bench.answers == []
    assert (bench.lease(T).closed is None) == (reason is Reason.HELD)


def test_cancelling_twice_or_too_late_says_nothing() -> None:
    bench = Bench(TOKENS)
    take_id = bench.ask()
    bench.leases.cancel(take_id)
    bench.said()
    bench.leases.cancel(take_id)
    bench.hear(granted(take_id, 0))
    bench.leases.cancel(take_id)
    bench.leases.cancel(99)
    assert bench.said() == []


def test_a_call_that_asks_for_all_can_still_be_cancelled() -> None:
    bench = Bench(RATE, TOKENS)
    bench.fill(1, 0)
    take_id = bench.ask()
    assert bench.reserve(REQUEST)
    bench.hear(granted(take_id, 100))
    bench.said()
    bench.leases.cancel(take_id)
    assert bench.said() == [Cancel(take_id)]
    bench.hear(granted(take_id, 1, 100))
    assert (bench.answers, bench.free()) == ([], [1, 100])


def test_when_the_ledger_is_gone_whoever_waits_is_refused_and_nothing_is_said() -> None:
    bench = Bench(TOKENS)
    bench.leases.cancel(bench.ask())
    bench.ask()
    bench.said()
    bench.leases.ledger_gone()
    (refusal,) = bench.answers
    assert refusal is not None
    assert refusal.refused.reason is Reason.HELD
    bench.leases.credit(bench.account.gating, (0, 100, 0, 0, 0))
    assert bench.reserve()
    bench.leases.sweep()
    assert bench.said() == []


# Rules that change


def test_another_amount_opens_what_was_closed() -> None:
    bench = Bench()
    bench.rulebook.set_key("k", (MONEY,))
    bench.hear(refused(bench.ask(), U, Reason.SPENT))
    raised = Rule(kind=Kind.USD, amount=2_000, per="day")
    bench.rulebook.set_key("k", (raised,))
    assert bench.leases.refusal(bench.account, CALL, LATER) is None
    assert bench.lease(U).capacity == 2_000


def test_what_a_rule_counts_otherwise_now_goes_back_as_it_was_taken() -> None:
    """A budget becomes strict while a call holds its estimate: that is not the worst case."""
    bench = Bench()
    bench.rulebook.set_key("k", (MONEY,))
    bench.fill(80)
    before = bench.account
    assert bench.reserve()
    bench.rulebook.set_key("k", (STRICT,))
    assert bench.account.is_strict
    assert bench.said() == [GiveBack((Amount(U, 30),))]
    bench.fill(400)
    assert bench.reserve()
    bench.leases.credit(before.gating, (0, 0, 20, 0, 370))
    assert bench.said() == [GiveBack((Amount(U, 20),))]
    bench.hear(Recall(1, (Amount(U, 0),)))
    bench.leases.credit(before.gating, (0, 0, 30, 0, 370))
    assert bench.said() == [Recalled(1), GiveBack((Amount(U, 30),))]
    assert [lease.free for lease in (*before.gating, *bench.account.gating)] == [0, 0]


def test_an_answer_for_what_a_rule_counts_otherwise_now_serves_its_call() -> None:
    bench = Bench()
    bench.rulebook.set_key("k", (MONEY,))
    take_id = bench.ask()
    bench.rulebook.set_key("k", (STRICT,))
    assert bench.account.is_strict
    bench.said()
    bench.hear(granted(take_id, 70))
    assert bench.answers == [None]
    assert bench.said() == [GiveBack((Amount(U, 20),))]
