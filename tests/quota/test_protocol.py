"""Workers and the desk together: limits are exact wherever calls arrive, and nothing is mislaid."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.contracts.rule import QUEUE, Kind, Rule, Scope
from llmrouter.quota.lease import Amounts
from llmrouter.quota.messages import Reason, Take
from tests.quota.node import Node
from tests.quota.workers import Call, Who, Worker

ORG = Scope(kind="org", name="acme")
REQUESTS, SLOTS, MONEY = "org/acme/requests/minute", "org/acme/concurrent", "org/acme/usd/day"


def node(*rules: Rule, workers: int = 3, hold_wait_ms: int = 2_000) -> tuple[Node, list[Worker]]:
    found = Node({ORG: rules}, hold_wait_ms=hold_wait_ms)
    return found, [found.worker() for _ in range(workers)]


def rate(amount: int) -> Rule:
    return Rule(kind=Kind.REQUESTS, amount=amount, per="minute")


def slots(amount: int, wait_ms: int = 0) -> Rule:
    if wait_ms:
        return Rule(kind=Kind.CONCURRENT, amount=amount, at_limit=QUEUE, wait_ms=wait_ms)
    return Rule(kind=Kind.CONCURRENT, amount=amount)


def usd(amount: int, *, strict: bool = False) -> Rule:
    return Rule(kind=Kind.USD, amount=amount, per="day", strict=strict)


def reason(call: Call) -> Reason | None:
    return None if call.refusal is None else call.refusal.refused.reason


# Exact, wherever calls arrive


@given(st.lists(st.integers(0, 2), min_size=30, max_size=60))
def test_a_rate_admits_exactly_what_it_says(arrivals: list[int]) -> None:
    """Whatever other workers have lying idle is taken back before anybody is refused."""
    found, workers = node(rate(25))
    admitted = 0
    for number in arrivals:
        call = workers[number].call()
        found.deliver()
        assert (call.state == "held") == (admitted < 25)
        if call.state == "held":
            admitted += 1
            call.begin()
    assert found.balance(REQUESTS) == 0


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=10, max_size=60))
def test_as_many_calls_at_once_as_it_says(steps: list[tuple[int, bool]]) -> None:
    found, workers = node(slots(4))
    running: list[Call] = []
    for number, ends in steps:
        if ends and running:
            running.pop(number % len(running)).release()
            for worker in workers:
                worker.speak()
            found.deliver()
        else:
            call = workers[number].call()
            found.deliver()
            assert (call.state == "held") == (len(running) < 4)
            if call.state == "held":
                running.append(call)
            else:
                assert reason(call) is Reason.OCCUPIED


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 60), st.integers(0, 60)),
        min_size=10,
        max_size=40,
    )
)
def test_a_strict_budget_is_spent_to_the_last_unit_and_never_beyond(
    steps: list[tuple[int, int, int]],
) -> None:
    found, workers = node(usd(300, strict=True))
    spent = 0
    for number, worst, share in steps:
        call = workers[number].call((1, 0, 0, 1, worst))
        found.deliver()
        assert (call.state == "held") == (spent + worst <= 300)
        if call.state == "held":
            call.begin()
            call.settle(0, worst * share // 60)
            call.worker.speak()
            found.deliver()
            spent += worst * share // 60
    found.rest()
    assert (found.used(MONEY), found.claimed(MONEY)) == (spent, 0)


# Who waits


def test_a_call_that_waits_gets_what_the_calls_of_any_worker_leave() -> None:
    found, (one, two, _) = node(slots(2, wait_ms=5_000))
    running = [one.call(), two.call()]
    found.deliver()
    waiting = [one.call(), two.call(), one.call()]
    found.deliver()
    assert [call.state for call in waiting] == ["asking"] * 3
    for call in running:
        call.release()
        call.worker.speak()
        found.deliver()
    assert [call.state for call in waiting] == ["held", "held", "asking"]


def test_a_busy_worker_does_not_overtake_who_waits_elsewhere() -> None:
    """Its calls settle and begin all the time: what they leave is owed to who came first."""
    found, (one, two, _) = node(slots(3, wait_ms=5_000))
    running = [one.call() for _ in range(3)]
    found.deliver()
    waiting = [two.call() for _ in range(2)]
    found.deliver()
    for call in running[:2]:
        call.release()
        call.worker.speak()
        late = one.call()
        assert late.state == "asking"
        found.deliver()
        assert late.state == "asking"
    assert [call.state for call in waiting] == ["held", "held"]


def test_a_call_that_was_served_while_another_waits_leaves_its_part_to_that() -> None:
    found, (one, two, three) = node(slots(1, wait_ms=5_000))
    first = one.call()
    found.deliver()
    second, third = two.call(), three.call()
    found.deliver()
    first.release()
    one.speak()
    found.deliver()
    second.release()
    late = two.call()
    found.deliver()
    assert [call.state for call in (third, late)] == ["held", "asking"]


def test_two_calls_that_want_the_same_buckets_never_wait_for_each_other() -> None:
    """Nothing is held while waiting."""
    found, (one, two, _) = node(slots(1, wait_ms=5_000), usd(100))
    both: Amounts = (1, 0, 60, 1, 60)
    running = one.call(both)
    found.deliver()
    waiting = []
    for worker in (two, one):
        waiting.append(worker.call(both))
        found.deliver()
    running.begin()
    running.settle(0, 10)
    one.speak()
    found.deliver()
    assert [call.state for call in waiting] == ["held", "asking"]
    waiting[0].begin()
    waiting[0].settle(0, 10)
    two.speak()
    found.deliver()
    assert waiting[1].state == "held"


def test_what_comes_back_to_an_overdrawn_bucket_is_enough_for_who_waits() -> None:
    found, (one, two, _) = node(usd(100))
    overdrawn, large = one.call((1, 0, 10, 1, 0)), one.call((1, 0, 90, 1, 0))
    found.deliver()
    overdrawn.begin()
    overdrawn.settle(0, 40)
    one.speak()
    waiting = two.call((1, 0, 50, 1, 0))
    found.deliver()
    assert (waiting.state, found.balance(MONEY)) == ("asking", -30)
    large.begin()
    large.settle(0, 5)
    one.speak()
    found.deliver()
    assert waiting.state == "held"


# What crosses


@pytest.mark.parametrize("granted_first", [True, False])
def test_a_cancel_leaves_nothing_claimed_whatever_it_crosses(granted_first: bool) -> None:
    found, (one, _, _) = node(rate(5), slots(2))
    call = one.call()
    if granted_first:
        found.hear(one)
    call.cancel()
    one.speak()
    found.rest()
    assert (found.claimed(REQUESTS), found.claimed(SLOTS), found.used(REQUESTS)) == (0, 0, 0)


def test_ten_thousand_calls_that_leave_at_any_moment_hold_no_slot() -> None:
    found, workers = node(slots(3), rate(1_000_000))
    for number in range(10_000):
        worker = workers[number % 3]
        call = worker.call()
        for _ in range(number % 4):
            if worker.said:
                found.hear(worker)
            if worker.told:
                worker.hear()
        if call.state == "asking":
            call.cancel()
        elif call.state == "held":
            call.release()
        worker.speak()
    found.rest()
    assert (found.claimed(SLOTS), found.claimed(REQUESTS)) == (0, 0)
    calls = [workers[0].call() for _ in range(3)]
    found.deliver()
    assert [call.state for call in calls] == ["held"] * 3


def test_a_recall_that_crosses_a_take_is_answered_before_it() -> None:
    found, (one, two, _) = node(usd(100))
    idle = one.call((1, 0, 100, 1, 0))
    found.deliver()
    idle.release()
    one.speak()
    first = two.call((1, 0, 100, 1, 0))
    found.hear(two)
    second = one.call((1, 0, 100, 1, 0))
    assert second.state == "held", "nobody has told it yet"
    found.deliver()
    assert first.state == "asking"
    second.release()
    one.speak()
    found.deliver()
    assert first.state == "held"


def test_a_give_back_for_a_rule_that_is_gone_and_came_back_is_counted() -> None:
    found, (one, two, _) = node(rate(100))
    who = Who(key_id="k")
    bucket = "key/k/usd/day"
    found.set_key("k", (usd(100),))
    found.deliver()
    call = one.call((1, 0, 60, 1, 0), who)
    found.deliver()
    call.begin()
    for rules in ((), (usd(100),)):
        found.set_key("k", rules)
        found.rules_changed()
    call.settle(0, 20)
    one.speak()
    found.rest()
    assert (found.used(bucket), found.claimed(bucket)) == (20, 0)
    other = two.call((1, 0, 80, 1, 0), who)
    found.deliver()
    assert other.state == "held"


def test_a_call_admitted_while_its_rules_change_counts_where_it_reserved() -> None:
    """It asked before it heard of the new rule, and was answered after that."""
    found, (one, _, _) = node(rate(100))
    who = Who(key_id="k")
    call = one.call((1, 0, 60, 1, 0), who)
    found.set_key("k", (usd(100),))
    found.rules_changed()
    found.deliver()
    call.begin()
    call.settle(0, 60)
    found.rest()
    entry = found.entry("key/k/usd/day")
    assert (entry.bucket.used(found.now_ms), entry.claims) == (0, {})


# Refusing without asking


def test_a_flood_of_refused_calls_asks_the_ledger_once_a_second() -> None:
    found, (one, _, _) = node(usd(100))
    asked = 0
    for _ in range(30):
        found.tick(100)
        for _ in range(10):
            call = one.call((1, 0, 101, 1, 0) if _ == 9 else (1, 0, 99, 1, 0))
            asked += sum(isinstance(said, Take) for said in one.said)
            found.deliver()
            if call.state == "held":
                call.begin()
                call.settle(0, 99)
                one.speak()
    assert asked == 1 + 3


def test_says_when_to_come_back_and_admits_then() -> None:
    found, (one, two, _) = node(rate(6))
    for worker in (one, two):
        for _ in range(3):
            call = worker.call()
            found.deliver()
            call.begin()
    found.tick(2_500)
    refused = [two.call()]
    found.deliver()
    refused.append(two.call())
    for call in refused:
        assert call.refusal is not None
        assert call.refusal.refused.retry_at_ms == found.now_ms + 7_500
    found.tick(7_499)
    early = two.call()
    found.deliver()
    assert early.state == "refused"
    found.tick(1)
    call = two.call()
    found.deliver()
    assert call.state == "held"


# Death


def test_a_worker_that_dies_holds_nothing_but_what_its_calls_began_with() -> None:
    found, (one, two, _) = node(slots(2), usd(100))
    begun, held = one.call((1, 0, 30, 1, 0)), one.call((1, 0, 20, 1, 0))
    found.deliver()
    begun.begin()
    begun.extend(0, 7)
    one.flush()
    found.kill(one)
    waiting = two.call((1, 0, 50, 1, 0))
    found.deliver()
    assert reason(waiting) is Reason.OCCUPIED
    found.bury(one)
    assert held.state == "held", "it never told anybody"
    assert (found.used(MONEY), found.claimed(MONEY), found.claimed(SLOTS)) == (37, 0, 0)
    found.deliver()
    again = two.call((1, 0, 50, 1, 0))
    found.deliver()
    assert again.state == "held"


def test_a_node_that_dies_counts_every_record_once() -> None:
    found, (one, two, _) = node(usd(1_000))
    for number, worker in enumerate((one, two) * 3):
        call = worker.call((1, 0, 50, 1, 0))
        found.deliver()
        call.begin()
        if number % 3:
            call.settle(0, 10 * number)
        worker.flush()
        if number == 2:
            found.fold()
            found.save()
        elif number == 4:
            found.fold()
    found.crash()
    assert found.used(MONEY) == 10 + 20 + 40 + 50 + 2 * 50
    found.crash()
    assert (found.used(MONEY), found.claimed(MONEY)) == (220, 0)
