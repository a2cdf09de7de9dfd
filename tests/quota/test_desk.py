"""The desk: who is granted what, what is recalled before anybody is refused, and who is told."""

import pytest

from llmrouter.contracts.rule import Kind, Rule
from llmrouter.quota.desk import RECALL_MS
from llmrouter.quota.messages import Amount, Granted, Reason, Recall, Refused
from tests.quota.counter import (
    HOLD_WAIT,
    MONEY,
    NOW,
    RATE,
    SLOTS,
    Counter,
    S,
    T,
    U,
    ask,
    full,
    reopened,
)

# Granting


def test_grants_what_fits_and_says_what_is_left() -> None:
    counter = Counter(MONEY, SLOTS)
    counter.take("one", 1, ask(U, 30), ask(S, 1))
    assert counter.told("one") == [Granted(1, (30, 1), (70, 1), NOW, (0, 0))]


def test_grants_all_or_nothing() -> None:
    counter = full(SLOTS)
    counter.set_rules(SLOTS, MONEY)
    counter.told("one")
    counter.take("two", 1, ask(U, 30), ask(S, 1))
    counter.recalled("one")
    assert counter.answers("two") == {1: "occupied"}
    assert counter.balance(U) == 100


def test_what_nothing_is_needed_of_is_in_nobodys_way() -> None:
    counter = full(MONEY, SLOTS)
    counter.force("one", U, 50)
    counter.give_back("one", S, 1)
    counter.take("two", 1, ask(U, 0, 10), ask(S, 1))
    assert counter.told("two") == [Granted(1, (0, 1), (-50, 0), NOW, (0, 0))]


# Recalling before refusing


def test_takes_back_what_others_do_not_use_before_it_refuses() -> None:
    counter = full(MONEY)
    counter.take("two", 1, ask(U, 40))
    assert counter.told("one") == [Recall(1, (Amount(U, 40),))]
    assert counter.told("two") == []
    counter.give_back("one", U, 60)
    assert counter.answers("two") == {1: "granted"}
    counter.desk.recalled("one", 1, NOW)
    assert counter.told("two") == []


def test_recalls_also_what_the_asker_has() -> None:
    counter = full(MONEY)
    counter.take("one", 1, ask(U, 40))
    assert counter.told("one") == [Recall(1, (Amount(U, 40),))]
    counter.give_back("one", U, 40)
    assert counter.answers("one") == {1: "granted"}


def test_refuses_only_what_is_spent_by_the_journals() -> None:
    """Until they are read, what was spent looks like what is held."""
    counter = full(MONEY)
    counter.take("two", 1, ask(U, 40))
    counter.spend("one", nano_usd=70)
    counter.recalled("one")
    (refused,) = counter.refusals("two")
    assert (refused.reason.value, refused.left, counter.balance(U)) == ("spent", 0, 0)


def test_a_recall_says_what_all_who_wait_need_and_what_is_overdrawn() -> None:
    counter = full(MONEY)
    counter.force("one", U, 7)
    counter.take("two", 1, ask(U, 40))
    counter.take("two", 2, ask(U, 30))
    assert counter.told("one") == [Recall(1, (Amount(U, 47),)), Recall(2, (Amount(U, 77),))]


def test_an_overdraft_while_somebody_waits_is_owed_too() -> None:
    counter = full(MONEY)
    counter.take("two", 1, ask(U, 40))
    counter.told("one")
    counter.force("one", U, 25)
    assert counter.told("one") == [Recall(2, (Amount(U, 65),))]


def test_a_worker_that_dies_while_it_is_recalled_is_not_waited_for() -> None:
    counter = full(MONEY)
    counter.take("two", 1, ask(U, 40))
    counter.desk.left("one", NOW)
    assert counter.answers("two") == {}
    counter.desk.ended("one", NOW)
    assert counter.answers("two") == {1: "granted"}


def test_what_a_dead_worker_spent_stays_spent() -> None:
    counter = full(SLOTS)
    counter.take("two", 1, ask(S, 1))
    counter.desk.left("one", NOW)
    assert counter.answers("two") == {1: "occupied"}
    counter.desk.ended("one", NOW)
    assert reopened(counter.told("two")) == [S]


def test_a_worker_that_stands_still_is_not_waited_for_long() -> None:
    counter = full(SLOTS)
    counter.take("two", 1, ask(S, 1))
    counter.tick(RECALL_MS - 1)
    assert counter.answers("two") == {}
    counter.tick(1)
    assert counter.answers("two") == {1: "occupied"}
    counter.recalled("one")  # late, and of no consequence
    assert counter.told("two") == []


def test_who_has_to_wait_elsewhere_is_refused_only_after_a_recall_there() -> None:
    counter = full(MONEY, SLOTS)
    counter.give_back("one", S, 2)
    counter.take("two", 1, ask(U, 40), ask(S, 1))
    counter.take("one", 2, ask(S, 2))
    counter.told("one")
    counter.give_back("one", U, 100)
    assert counter.told("one") == [Recall(2, (Amount(S, 1),))]
    assert counter.told("two") == []
    counter.desk.recalled("one", 1, NOW)
    assert counter.told("two") == []
    counter.desk.recalled("one", 2, NOW)
    assert counter.answers("two") == {1: "occupied"}


def test_who_finds_on_its_recall_that_it_has_to_wait_elsewhere_is_not_refused_yet() -> None:
    counter = full(RATE, SLOTS)
    counter.spend("one", tokens=60)
    counter.give_back("one", S, 2)
    counter.take("two", 1, ask(T, 5), ask(S, 1))
    counter.take("one", 2, ask(S, 2))
    counter.now_ms += 5_000
    counter.recalled("one")
    assert counter.answers("two") == {}
    counter.give_back("one", S, 1)
    assert counter.answers("two") == {1: "granted"}


# Room again


@pytest.mark.parametrize(
    ("back", "opens"), [(3, False), (4, True)], ids=["as much as it was told", "more than that"]
)
def test_tells_of_room_when_there_is_more_than_was_told(back: int, opens: bool) -> None:
    counter = full(MONEY)
    counter.spend("one", nano_usd=90)
    counter.give_back("one", U, 3)
    counter.take("two", 1, ask(U, 20))
    counter.recalled("one")
    (refused,) = counter.refusals("two")
    assert (refused.reason.value, refused.left) == ("spent", 3)
    counter.take("one", 2, ask(U, 3))
    counter.told("one")
    counter.give_back("one", U, back)
    assert reopened(counter.told("two")) == ([U] if opens else [])
    counter.give_back("one", U, 1)
    assert reopened(counter.told("two")) == ([] if opens else [U])


def test_tells_nobody_of_room_that_is_taken_by_who_waits() -> None:
    counter = full(SLOTS)
    counter.take("two", 1, ask(S, 1))
    counter.recalled("one")
    assert counter.answers("two") == {1: "occupied"}
    counter.take("one", 2, ask(S, 1))
    counter.give_back("one", S, 1)
    assert counter.answers("one") == {2: "granted"}
    assert counter.told("two") == []


def test_who_waited_in_vain_asks_again_without_being_told() -> None:
    counter = full(MONEY)
    counter.take("two", 1, ask(U, 20), at_once=True)
    counter.recalled("one")
    assert counter.answers("two") == {1: "held"}
    counter.give_back("one", U, 100)
    assert counter.told("two") == []


# Rules that change


def refused_two() -> Counter:
    counter = full(MONEY)
    counter.spend("one", nano_usd=100)
    counter.take("two", 1, ask(U, 20))
    counter.recalled("one")
    assert counter.answers("two") == {1: "spent"}
    return counter


def test_a_raised_budget_opens_at_once() -> None:
    counter = refused_two()
    counter.set_rules(Rule(kind=Kind.USD, amount=150, per="day"))
    assert reopened(counter.told("two")) == [U]
    counter.take("two", 2, ask(U, 20))
    assert counter.answers("two") == {2: "granted"}


def test_a_raised_budget_serves_who_waits() -> None:
    counter = full(MONEY)
    counter.take("two", 1, ask(U, 40))
    counter.recalled("one")
    counter.set_rules(Rule(kind=Kind.USD, amount=140, per="day"))
    assert counter.answers("two") == {1: "granted"}


def test_a_lowered_budget_closes_at_once_and_takes_back_what_lies_idle() -> None:
    counter = Counter(MONEY)
    counter.take("one", 1, ask(U, 50))
    counter.told("one")
    counter.set_rules(Rule(kind=Kind.USD, amount=60, per="day"))
    assert counter.told("one") == [Recall(1, (Amount(U, 0),))]
    assert counter.told("two") == []
    counter.take("two", 2, ask(U, 20))
    counter.recalled("one")
    counter.tick(HOLD_WAIT)
    assert counter.answers("two") == {2: "held"}


def test_who_waits_for_more_than_a_lowered_rule_admits_is_told_so() -> None:
    counter = full(MONEY)
    counter.take("two", 1, ask(U, 90))
    counter.recalled("one")
    counter.set_rules(Rule(kind=Kind.USD, amount=60, per="day"))
    assert counter.answers("two") == {1: "too_large"}


def test_a_rule_that_is_taken_away_lets_everybody_in() -> None:
    counter = full(MONEY)
    counter.take("two", 1, ask(U, 90))
    counter.recalled("one")
    counter.set_rules()
    assert counter.answers("two") == {1: "granted"}
    counter.take("two", 2, ask(U, 1_000))
    assert counter.answers("two") == {2: "granted"}


def test_a_rule_that_is_taken_away_reopens() -> None:
    counter = refused_two()
    counter.set_rules()
    assert reopened(counter.told("two")) == [U]


def test_refusals_carry_what_an_error_tells() -> None:
    counter = refused_two()
    counter.take("two", 2, ask(U, 20))
    counter.recalled("one")
    day_ms = 86_400_000
    assert counter.refusals("two") == [
        Refused(2, U, Reason.SPENT, 0, NOW, NOW + day_ms, NOW + day_ms)
    ]
