"""A reservation: settled or released once, extended while a stream runs, cut where that is said."""

import pytest

from llmrouter.contracts.rule import Kind, Rule
from llmrouter.quota.lease import Amounts
from llmrouter.quota.leases import Refusal
from llmrouter.quota.messages import Amount, Ask, Cancel, Force, GiveBack, Reason, Take
from llmrouter.quota.reservation import Reservation
from tests.quota.alone import CALL, LATER, MONEY, RATE, STRICT, TOKENS, Bench, T, granted, refused

SLOTS = Rule(kind=Kind.CONCURRENT, amount=5)
CUT = Rule(kind=Kind.USD, amount=1_000, per="week", cut=True)
CUT_TOO = Rule(kind=Kind.USD, amount=1_000, per="month", cut=True)
STRICT_CUT = Rule(kind=Kind.USD, amount=1_000, per="week", strict=True, cut=True)
U, W, M = "org/acme/usd/day", "org/acme/usd/week", "org/acme/usd/month"


class Held:
    """A bench on which one call holds its part, and every lease has `left` beside."""

    def __init__(self, *rules: Rule, left: int = 0) -> None:
        self.bench = Bench(*rules)
        worst = 400 if any(rule.strict for rule in rules) else 0
        amounts: Amounts = (1, 100, 50, 1, worst)
        account = self.bench.account
        for lease in account.gating:
            self.bench.leases.credit((lease,), (left,) * 5)
        self.bench.leases.credit(account.gating, amounts)
        assert self.bench.reserve(amounts)
        self.reservation = Reservation(self.bench.leases, account, amounts)
        self.cuts: list[Refusal] = []

    def extend(self, tokens: int, nano_usd: int) -> None:
        self.reservation.extend(tokens, nano_usd, self.cuts.append, LATER)

    def free(self) -> list[int]:
        return self.bench.free()


def test_settling_gives_back_what_was_held_and_not_used() -> None:
    held = Held(RATE, TOKENS, MONEY, SLOTS)
    held.reservation.settle(30, 50)
    assert held.free() == [0, 70, 0, 1]
    assert held.bench.said() == []


def test_settling_takes_what_was_used_and_not_held() -> None:
    held = Held(TOKENS, MONEY, left=5)
    held.reservation.settle(104, 60)
    assert held.free() == [1, 0]
    assert held.bench.said() == [Force((Amount(U, 5),))]


def test_a_release_gives_back_all() -> None:
    held = Held(RATE, TOKENS, MONEY, SLOTS)
    held.reservation.release()
    assert held.free() == [1, 100, 50, 1]


@pytest.mark.parametrize("first", ["settle", "release"])
def test_whatever_comes_after_the_end_does_nothing(first: str) -> None:
    held = Held(RATE, TOKENS, MONEY, SLOTS)
    if first == "settle":
        held.reservation.settle(100, 50)
    else:
        held.reservation.release()
    free = held.free()
    held.reservation.settle(1, 1)
    held.reservation.release()
    held.extend(500, 500)
    assert (held.free(), held.bench.said(), held.cuts) == (free, [], [])


def test_a_strict_budget_holds_the_worst_case_beside_what_others_hold() -> None:
    held = Held(STRICT)
    assert (held.reservation.tokens, held.reservation.nano_usd) == (100, 400)
    held.reservation.settle(90, 45)
    assert held.free() == [355]


def test_without_a_strict_budget_what_is_foreseen_is_held() -> None:
    assert Held(MONEY).reservation.nano_usd == 50
    assert repr(Held(MONEY).reservation) == "<Reservation (1, 100, 50, 1, 0) open=True>"


def test_belongs_to_the_rules_that_its_leases_are_of() -> None:
    """They may have changed while it was asked for: it has reserved nothing of the new ones."""
    bench = Bench(TOKENS)
    bench.rulebook.generation = 7
    account = bench.account
    bench.rulebook.generation = 8
    bench.rulebook.set_key("k", (MONEY,))
    assert Reservation(bench.leases, account, CALL).rules == 7
    assert Reservation(bench.leases, bench.account, CALL).rules == 8


def test_what_only_counts_is_settled_too() -> None:
    bench = Bench(RATE, TOKENS)
    account = bench.account.without(T)
    bench.leases.credit(account.gating, (1, 0, 0, 0, 0))
    assert bench.leases.reserve(account, CALL, LATER)
    assert bench.said() == [Force((Amount(T, 100),))]
    Reservation(bench.leases, account, CALL).settle(60, 0)
    assert bench.lease(T).free == 40


# Extending


def test_a_running_stream_overdraws_what_lets_it_finish() -> None:
    held = Held(TOKENS, MONEY, left=5)
    held.extend(256, 20)
    assert held.free() == [0, 0]
    assert held.bench.said() == [Force((Amount(T, 251), Amount(U, 15)))]
    assert (held.reservation.tokens, held.reservation.nano_usd) == (356, 70)
    held.reservation.settle(300, 60)
    assert held.free() == [56, 10]


def test_a_strict_budget_holds_enough_for_the_whole_stream() -> None:
    held = Held(STRICT)
    held.extend(256, 200)
    assert held.bench.said() == []
    held.reservation.settle(300, 250)
    assert held.free() == [150]


def test_a_budget_that_cuts_is_extended_from_what_is_free() -> None:
    held = Held(TOKENS, CUT, left=20)
    held.extend(10, 20)
    assert (held.free(), held.bench.said(), held.cuts) == ([10, 0], [], [])
    held.reservation.settle(110, 65)
    assert held.free() == [10, 5]


def test_a_budget_that_cuts_is_asked_for_more_which_cannot_wait() -> None:
    held = Held(CUT, left=5)
    held.extend(10, 20)
    assert held.bench.said() == [
        GiveBack((Amount(W, 5),)),
        Take(1, (Ask(W, 20, 20),), at_once=True),
    ]
    held.bench.hear(granted(1, 30))
    assert held.cuts == []
    held.reservation.settle(110, 60)
    assert held.free() == [20]


def test_a_stream_is_cut_when_its_budget_has_no_more() -> None:
    held = Held(CUT)
    held.extend(10, 20)
    held.bench.hear(refused(1, W, Reason.SPENT))
    (refusal,) = held.cuts
    assert (refusal.lease.name, refusal.wanted) == (W, 20)
    held.bench.said()
    held.reservation.settle(110, 70)
    assert held.bench.said() == [Force((Amount(W, 20),))]


def test_a_stream_is_cut_at_once_where_the_worker_knows_that_there_is_no_more() -> None:
    held = Held(CUT)
    lease = held.bench.lease(W)
    lease.closed = refused(1, W, Reason.SPENT)
    held.extend(10, 20)
    assert len(held.cuts) == 1
    assert held.bench.said() == []


def test_while_more_is_asked_for_the_stream_runs_on_and_the_next_slice_makes_up_for_it() -> None:
    held = Held(CUT)
    held.extend(10, 20)
    held.extend(10, 25)
    held.bench.hear(granted(1, 20))
    assert held.bench.said()[0] == Take(1, (Ask(W, 20, 20),), at_once=True)
    held.extend(10, 5)
    assert held.bench.said() == [Take(2, (Ask(W, 30, 60),), at_once=True)]
    held.bench.hear(granted(2, 30))
    held.reservation.settle(130, 100)
    assert (held.free(), held.bench.said()) == ([0], [])


def test_more_that_comes_after_the_end_is_not_held() -> None:
    held = Held(CUT)
    held.extend(10, 20)
    held.reservation.settle(100, 50)
    assert held.bench.said()[-1] == Cancel(1)
    held.bench.hear(granted(1, 20))
    assert (held.free(), held.cuts) == ([20], [])


def test_more_of_two_budgets_that_comes_after_the_end_is_not_held() -> None:
    """One of them had run out meanwhile, so both were asked for again."""
    held = Held(CUT, CUT_TOO, left=20)
    held.bench.lease(M).free = 0
    held.extend(10, 20)
    held.bench.leases.debit((held.bench.lease(W),), (0, 0, 20, 0, 0))
    held.bench.hear(granted(1, 20))
    assert held.bench.said()[-1] == Take(1, (Ask(W, 20, 20), Ask(M, 20, 40)), at_once=True)
    held.reservation.settle(100, 50)
    assert held.bench.said() == [Cancel(1)]
    held.bench.hear(granted(1, 20, 20))
    assert (held.free(), held.cuts) == ([20, 20], [])


def test_the_worst_case_comes_back_also_from_a_budget_that_would_cut() -> None:
    held = Held(STRICT_CUT)
    held.extend(10, 20)
    held.bench.hear(granted(1))
    held.reservation.settle(110, 70)
    assert held.free() == [330]


@pytest.mark.parametrize("worst", [0, 400])
def test_another_attempt_needs_the_same_but_is_no_other_call(worst: int) -> None:
    bench = Bench(RATE, TOKENS, MONEY, SLOTS)
    reservation = Reservation(bench.leases, bench.account, (1, 100, 50, 1, worst))
    assert reservation.again() == (0, 100, 50, 0, worst)
    bench.fill(0, 100, 50, 0)
    assert bench.reserve(reservation.again()), "neither a request nor a place is needed"
