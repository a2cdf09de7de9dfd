"""Who waits at the desk: why, for how long, and in which order they are served."""

import pytest

from llmrouter.contracts.rule import QUEUE, Kind, Rule
from llmrouter.quota.messages import Granted
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
)

QUEUED_SLOTS = Rule(kind=Kind.CONCURRENT, amount=2, at_limit=QUEUE, wait_ms=10_000)
QUEUED_RATE = Rule(kind=Kind.TOKENS, amount=60, per="minute", at_limit=QUEUE, wait_ms=10_000)


# Waiting


@pytest.mark.parametrize(
    ("rules", "spent", "least", "after_ms", "answer"),
    [
        ((MONEY,), 0, 101, 0, "too_large"),
        ((MONEY,), 70, 31, 0, "spent"),
        ((RATE,), 0, 60, HOLD_WAIT, "held"),
        ((MONEY,), 60, 40, HOLD_WAIT, "held"),
        ((SLOTS,), 0, 1, 0, "occupied"),
        ((QUEUED_SLOTS,), 0, 1, 10_000, "waited"),
        ((QUEUED_RATE,), 0, 60, 10_000, "waited"),
    ],
)
def test_says_why_and_after_how_long(
    rules: tuple[Rule, ...], spent: int, least: int, after_ms: int, answer: str
) -> None:
    counter = full(*rules)
    counter.spend("one", nano_usd=spent)
    counter.take("two", 1, ask(f"key/k/{rules[0].name}", least))
    counter.recalled("one")
    if after_ms:
        counter.tick(after_ms - 1)
        assert counter.answers("two") == {}
        assert counter.desk.waiting == 1
        counter.tick(1)
    assert counter.answers("two") == {1: answer}
    assert counter.desk.waiting == 0


def test_whoever_waits_is_served_as_soon_as_there_is_room() -> None:
    counter = full(MONEY)
    counter.take("two", 1, ask(U, 40))
    counter.recalled("one")
    counter.give_back("one", U, 39)
    assert counter.answers("two") == {}
    counter.give_back("one", U, 1)
    assert counter.answers("two") == {1: "granted"}


def test_whoever_waits_is_served_as_soon_as_time_made_room() -> None:
    counter = full(QUEUED_RATE)
    counter.spend("one", tokens=60)
    counter.take("two", 1, ask(T, 5))
    counter.recalled("one")
    counter.tick(4_999)
    assert counter.answers("two") == {}
    counter.tick(1)
    assert counter.answers("two") == {1: "granted"}


def test_who_would_wait_in_vain_does_not_wait() -> None:
    counter = full(QUEUED_RATE)
    counter.spend("one", tokens=60)
    counter.take("two", 1, ask(T, 11))
    counter.recalled("one")
    (refused,) = counter.refusals("two")
    assert (refused.reason.value, refused.retry_at_ms) == ("spent", NOW + 11_000)


def test_a_running_stream_is_refused_rather_than_kept_waiting() -> None:
    counter = full(MONEY)
    counter.take("two", 1, ask(U, 40), at_once=True)
    counter.recalled("one")
    assert counter.answers("two") == {1: "held"}


def test_only_so_many_may_wait() -> None:
    counter = full(MONEY, waiting_max=2)
    for take_id in (1, 2, 3):
        counter.take("two", take_id, ask(U, 10))
    counter.recalled("one")
    assert counter.answers("two") == {1: "held"}
    counter.take("two", 4, ask(U, 10))
    counter.recalled("one")
    assert counter.answers("two") == {4: "held"}
    assert counter.desk.waiting == 2


# The order


def test_who_comes_later_does_not_overtake_however_little_it_needs() -> None:
    counter = full(MONEY)
    counter.take("two", 1, ask(U, 40))
    counter.take("two", 2, ask(U, 1))
    counter.recalled("one")
    counter.give_back("one", U, 39)
    counter.take("one", 3, ask(U, 1))
    counter.recalled("one", "two")
    assert (counter.answers("one"), counter.answers("two")) == ({}, {})
    counter.give_back("one", U, 2)
    assert (counter.answers("one"), counter.answers("two")) == ({}, {1: "granted", 2: "granted"})


def test_nothing_is_lent_beyond_what_is_needed_where_others_wait() -> None:
    counter = full(MONEY)
    counter.take("two", 1, ask(U, 10, 1_000))
    counter.take("two", 2, ask(U, 90))
    counter.recalled("one")
    counter.give_back("one", U, 100)
    amounts = [one.amounts for one in counter.told("two") if isinstance(one, Granted)]
    assert amounts == [(10,), (90,)]


def test_a_grant_says_what_others_wait_for() -> None:
    counter = full(MONEY)
    counter.take("two", 1, ask(U, 10))
    counter.take("two", 2, ask(U, 50))
    counter.recalled("one")
    counter.give_back("one", U, 10)
    assert counter.told("two") == [Granted(1, (10,), (0,), NOW, (50,))]


def test_nothing_is_lent_ahead_where_others_wait() -> None:
    counter = full(MONEY)
    counter.take("two", 1, ask(U, 40))
    counter.give_back("one", U, 30)
    counter.told("one")
    counter.take("one", 2, ask(U, 0, 8), ahead=True)
    assert counter.told("one") == [Granted(2, (0,), (30,), NOW, (40,))]


def test_others_pass_where_there_is_room_for_one_that_waits_elsewhere() -> None:
    counter = full(MONEY, SLOTS)
    counter.take("two", 1, ask(U, 40), ask(S, 1))
    counter.take("two", 2, ask(S, 1))
    counter.recalled("one")
    assert counter.answers("two") == {1: "occupied", 2: "occupied"}
    counter = full(MONEY, QUEUED_SLOTS)
    counter.take("two", 1, ask(U, 40), ask(S, 1))
    counter.take("two", 2, ask(S, 1))
    counter.recalled("one")
    counter.give_back("one", S, 1)
    assert counter.answers("two") == {2: "granted"}


def test_who_changes_queues_keeps_its_place() -> None:
    counter = full(MONEY, QUEUED_SLOTS)
    counter.take("two", 1, ask(U, 40), ask(S, 1))
    counter.take("two", 2, ask(U, 40))
    counter.recalled("one")
    counter.give_back("one", S, 1)  # the first leaves that queue, and stays before the second
    counter.recalled("one")
    counter.give_back("one", U, 40)
    assert counter.answers("two") == {1: "granted"}


def test_who_came_first_is_before_who_waits_where_it_comes_to() -> None:
    counter = full(QUEUED_RATE, QUEUED_SLOTS)
    counter.give_back("one", S, 1)
    counter.take("two", 1, ask(T, 50), ask(S, 1))  # has to wait for tokens only
    counter.take("two", 2, ask(S, 2))
    counter.recalled("one")
    counter.take("one", 3, ask(S, 1))  # has to wait behind the second
    counter.give_back("one", T, 50)
    assert counter.answers("two") == {1: "granted"}


def test_a_refusal_serves_who_stood_behind() -> None:
    counter = full(MONEY)
    counter.take("two", 1, ask(U, 40), at_once=True)
    counter.take("two", 2, ask(U, 10))
    counter.give_back("one", U, 10)
    assert counter.answers("two") == {}
    counter.recalled("one")
    assert counter.answers("two") == {1: "held", 2: "granted"}


def test_who_is_served_in_the_place_of_one_that_waited_too_long_is_not_refused_too() -> None:
    counter = full(MONEY)
    counter.take("two", 1, ask(U, 40))
    counter.take("two", 2, ask(U, 10))
    counter.recalled("one")
    counter.give_back("one", U, 10)
    counter.tick(HOLD_WAIT)
    assert counter.answers("two") == {1: "held", 2: "granted"}


def test_a_grant_serves_who_stood_behind_in_another_queue() -> None:
    counter = full(MONEY, QUEUED_SLOTS)
    counter.take("two", 1, ask(U, 40), ask(S, 2))
    counter.take("two", 2, ask(S, 1))
    counter.recalled("one")
    counter.give_back("one", S, 1)
    assert counter.answers("two") == {}
    counter.desk.cancel("two", 1, NOW)
    assert counter.told("two") == [
        Granted(1, (0, 0), (0, 1), NOW, (0, 1)),
        Granted(2, (1,), (0,), NOW, (0,)),
    ]


def test_a_grant_serves_who_stood_behind_where_time_made_room() -> None:
    counter = full(QUEUED_RATE, QUEUED_SLOTS)
    counter.spend("one", tokens=60)
    counter.take("two", 1, ask(T, 5), ask(S, 1))
    counter.take("two", 2, ask(T, 1))
    counter.recalled("one")
    assert counter.desk.waiting == 2
    counter.now_ms += 8_000
    counter.give_back("one", S, 1)
    assert counter.answers("two") == {1: "granted", 2: "granted"}


def test_a_cancel_after_the_answer_changes_nothing() -> None:
    counter = Counter(MONEY)
    counter.take("two", 1, ask(U, 40))
    counter.told("two")
    counter.desk.cancel("two", 1, NOW)
    assert (counter.told("two"), counter.balance(U)) == ([], 60)


def test_those_behind_one_that_died_are_served() -> None:
    counter = full(MONEY)
    counter.take("two", 1, ask(U, 100))
    counter.take("one", 2, ask(U, 10))
    counter.recalled("one")
    counter.give_back("one", U, 50)
    counter.desk.left("two", NOW)
    assert counter.answers("one") == {2: "granted"}
    assert counter.desk.waiting == 0


def test_shows_its_state() -> None:
    assert repr(full(MONEY).desk) == "<Desk workers=2 pending=0>"
