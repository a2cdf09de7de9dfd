"""A worker's leases: what is taken in memory, what is asked, owed, and given back."""

import pytest

from llmrouter.contracts.rule import Kind, Rule
from llmrouter.quota.lease import BUSY_MS, Amounts
from llmrouter.quota.messages import (
    Amount,
    Ask,
    Force,
    GiveBack,
    Reason,
    Recall,
    Recalled,
    Reopened,
    Take,
)
from tests.quota.alone import (
    CALL,
    LATER,
    MONEY,
    RATE,
    REQUEST,
    TOKENS,
    Bench,
    R,
    T,
    granted,
    refused,
)

# Reserving


def test_a_call_takes_its_part_of_every_lease_and_says_nothing() -> None:
    bench = Bench(RATE, TOKENS, MONEY)
    bench.fill(5, 250, 1_000)
    assert [bench.reserve() for _ in range(3)] == [True, True, False]
    assert (bench.free(), bench.said(), bench.wakes) == ([3, 50, 900], [], 0)


def test_a_call_that_no_rule_is_for_needs_nobody() -> None:
    bench = Bench()
    assert bench.reserve()
    assert bench.leases.refusal(bench.account, CALL, LATER) is None


def test_asks_in_one_message_for_what_is_short_after_giving_back_the_rest_of_it() -> None:
    bench = Bench(RATE, TOKENS, MONEY)
    bench.fill(5, 30, 0)
    assert not bench.reserve()
    take_id = bench.ask()
    assert bench.said() == [
        GiveBack((Amount(T, 30),)),
        Take(take_id, (Ask(T, 100, 100), Ask("org/acme/usd/day", 50, 50))),
    ]
    bench.hear(granted(take_id, 100, 60))
    assert bench.answers == [None]
    assert bench.free() == [4, 0, 10]


def test_wakes_once_for_all_that_is_to_be_sent() -> None:
    bench = Bench(RATE)
    for _ in range(3):
        bench.ask()
    assert bench.wakes == 1
    bench.said()
    bench.ask()
    assert bench.wakes == 2


def test_is_short_again_of_what_ran_out_meanwhile_and_then_asks_for_all() -> None:
    bench = Bench(RATE, TOKENS)
    bench.fill(1, 0)
    take_id = bench.ask()
    bench.said()
    assert bench.reserve(REQUEST)
    bench.hear(granted(take_id, 150))
    assert bench.answers == []
    assert bench.said() == [
        GiveBack((Amount(T, 150),)),
        Take(take_id, (Ask(R, 1, 1), Ask(T, 100, 200))),
    ]
    bench.hear(granted(take_id, 1, 200))
    assert bench.answers == [None]
    assert bench.free() == [0, 100]


def test_asks_for_nothing_of_a_bucket_of_which_nothing_is_needed() -> None:
    """It may be overdrawn: that is no reason to refuse a call that costs nothing."""
    bench = Bench(RATE, TOKENS, MONEY)
    free_of_charge: Amounts = (1, 100, 0, 1, 0)
    bench.fill(1, 0, 0)
    take_id = bench.ask(free_of_charge)
    assert bench.reserve(REQUEST)
    bench.said()
    bench.hear(granted(take_id, 100))
    *_, take = bench.said()
    assert isinstance(take, Take)
    assert [ask.bucket for ask in take.asks] == [R, T]


def test_tells_why_it_was_refused() -> None:
    bench = Bench(RATE, TOKENS)
    take_id = bench.ask(at_once=True)
    said = bench.said()
    assert said == [Take(take_id, (Ask(R, 1, 1), Ask(T, 100, 100)), at_once=True)]
    bench.hear(refused(take_id, T, Reason.HELD))
    (refusal,) = bench.answers
    assert refusal is not None
    assert (refusal.lease.name, refusal.wanted, refusal.refused.reason) == (T, 100, Reason.HELD)


@pytest.mark.parametrize(
    ("reason", "closes"),
    [
        (Reason.SPENT, True),
        (Reason.OCCUPIED, True),
        (Reason.HELD, False),
        (Reason.WAITED, False),
        (Reason.TOO_LARGE, False),
    ],
)
def test_refuses_by_itself_where_the_ledger_surely_would(reason: Reason, closes: bool) -> None:
    bench = Bench(MONEY)
    bench.hear(refused(bench.ask(), "org/acme/usd/day", reason))
    refusal = bench.leases.refusal(bench.account, CALL, LATER)
    assert (refusal is not None) == closes
    bench.hear(Reopened(("org/acme/usd/day", "org/other/usd/day")))
    assert bench.leases.refusal(bench.account, CALL, LATER) is None


def test_is_counted_but_not_refused_where_another_limit_was_met_before() -> None:
    bench = Bench(RATE, TOKENS)
    bench.fill(1, 30)
    bench.said()
    account = bench.account.without(T)
    assert bench.leases.reserve(account, CALL, LATER)
    assert bench.said() == [Force((Amount(T, 70),))]
    assert bench.free() == [0, 0]


# Settling and giving back


def test_what_is_left_is_free_and_what_is_missing_is_forced() -> None:
    bench = Bench(TOKENS, MONEY)
    bench.fill(0, 30)
    bench.leases.credit(bench.account.gating, (0, 20, -50, 0, 0))
    assert bench.free() == [20, 0]
    assert bench.said() == [Force((Amount("org/acme/usd/day", 20),))]
    bench.leases.debit(bench.account.gating, (0, 5, 0, 0, 0))
    assert (bench.free(), bench.said()) == ([15, 0], [])


def test_what_lies_idle_for_two_sweeps_goes_back() -> None:
    bench = Bench(RATE, TOKENS)
    bench.fill(5, 300)
    bench.leases.sweep()
    assert bench.reserve(REQUEST)
    bench.leases.sweep()
    assert bench.said() == [GiveBack((Amount(T, 300),))]
    bench.leases.sweep()
    assert bench.said() == [GiveBack((Amount(R, 4),))]
    bench.leases.sweep()
    assert (bench.said(), bench.free()) == ([], [0, 0])


def test_what_calls_leave_after_a_sweep_goes_back_too() -> None:
    """Else a claim would stay for as long as the worker lives."""
    bench = Bench(TOKENS)
    bench.fill(300)
    assert bench.reserve()
    for _ in range(2):
        bench.leases.sweep()
    assert bench.said() == [GiveBack((Amount(T, 200),))]
    bench.leases.credit(bench.account.gating, (0, 40, 0, 0, 0))
    for _ in range(2):
        bench.leases.sweep()
    assert bench.said() == [GiveBack((Amount(T, 40),))]


# Recalls


def test_gives_back_what_is_free_at_once_and_the_rest_when_calls_leave_it() -> None:
    bench = Bench(TOKENS)
    bench.fill(130)
    assert bench.reserve()
    bench.hear(Recall(7, (Amount(T, 100), Amount("org/other/tokens/minute", 5))))
    assert bench.flushes == 1
    assert bench.said() == [GiveBack((Amount(T, 30),)), Recalled(7)]
    bench.leases.credit(bench.account.gating, (0, 60, 0, 0, 0))
    bench.leases.credit(bench.account.gating, (0, 40, 0, 0, 0))
    assert bench.said() == [GiveBack((Amount(T, 60),)), GiveBack((Amount(T, 10),))]
    assert bench.free() == [30]


def test_a_recall_says_what_all_who_wait_need_however_much_was_recalled_before() -> None:
    bench = Bench(TOKENS)
    bench.account  # noqa: B018  # its leases are there from now on
    for needed in (100, 150, 30):
        bench.hear(Recall(needed, (Amount(T, needed),)))
    bench.said()
    bench.leases.credit(bench.account.gating, (0, 500, 0, 0, 0))
    assert bench.said() == [GiveBack((Amount(T, 30),))]


def test_a_grant_says_what_others_still_wait_for() -> None:
    """So what its call leaves is theirs, and no later call of this worker overtakes them."""
    bench = Bench(TOKENS)
    bench.hear(granted(bench.ask(), 100, needed=(60,)))
    bench.said()
    bench.leases.credit(bench.account.gating, (0, 100, 0, 0, 0))
    assert bench.said() == [GiveBack((Amount(T, 60),))]
    bench.hear(Recall(1, (Amount(T, 500),)), granted(bench.ask(), 100, needed=(0,)))
    bench.said()
    bench.leases.credit(bench.account.gating, (0, 100, 0, 0, 0))
    assert bench.said() == []


def test_a_grant_beyond_the_call_is_owed_first() -> None:
    bench = Bench(TOKENS)
    bench.hear(granted(bench.ask(), 150, needed=(30,)))
    assert bench.said()[1:] == [GiveBack((Amount(T, 30),))]
    assert bench.free() == [20]


def test_each_call_of_a_burst_asks_for_what_it_needs_and_then_their_sum_is_asked_for() -> None:
    """A part of a bucket that grew by doubling for each call would soon be all that may be lent."""
    bench = Bench(RATE)
    ids = [bench.ask(REQUEST) for _ in range(30)]
    assert [take.asks for take in bench.said() if isinstance(take, Take)] == [(Ask(R, 1, 1),)] * 30
    bench.hear(*(granted(take_id, 1) for take_id in ids))
    assert bench.answers == [None] * 30
    assert bench.said() == [Take(31, (Ask(R, 0, 60),), ahead=True)]


def test_whatever_the_answer_is_none_is_awaited_after_it() -> None:
    bench = Bench(RATE, TOKENS)
    ids = [bench.ask() for _ in range(3)]
    bench.hear(
        granted(ids[0], 1, 100), refused(ids[1], T, Reason.HELD), refused(ids[2], R, Reason.SPENT)
    )
    assert [bench.lease(name).leading for name in (R, T)] == [0, 0]


@pytest.mark.parametrize("answer_ms", [1, 3, 7])
@pytest.mark.parametrize(("calls", "every_ms"), [(10, 1), (1, 1), (64, 6), (1, 3)])
def test_a_steady_load_asks_now_and_then_however_late_the_answers_are(
    calls: int, every_ms: int, answer_ms: int
) -> None:
    bench = Bench(RATE)
    asked: list[tuple[int, Take]] = []
    takes = 0
    for now_ms in range(LATER, LATER + 1_000):
        while asked and asked[0][0] <= now_ms:
            _, take = asked.pop(0)
            bench.leases.hear(granted(take.id, take.asks[0].wanted), now_ms)
        if now_ms % every_ms == 0:
            for _ in range(calls):
                if not bench.reserve(REQUEST, now_ms):
                    bench.ask(REQUEST, now_ms)
        said = [message for message in bench.said() if isinstance(message, Take)]
        asked += [(now_ms + answer_ms, take) for take in said]
        takes += len(said)
    assert takes <= 4 * calls * (1 + answer_ms // every_ms) + 20


# Asking ahead


def busy() -> Bench:
    """One that is called so often that its lease holds many calls' worth."""
    bench = Bench(RATE)
    lease = bench.lease(R)
    lease.wanted, lease.low, lease.asked_at_ms = 16, 4, LATER
    bench.fill(15)
    return bench


def call_often(bench: Bench, calls: int) -> None:
    for _ in range(calls):
        assert bench.reserve(REQUEST, LATER + 2 * BUSY_MS)


def test_asks_ahead_once_little_is_left_and_not_again_before_the_answer() -> None:
    bench = busy()
    call_often(bench, 11)
    assert bench.said() == []
    call_often(bench, 2)
    assert bench.said() == [Take(1, (Ask(R, 0, 16),), ahead=True)]
    bench.hear(granted(1, 16))
    assert bench.free() == [18]
    call_often(bench, 15)
    assert bench.said() == [Take(2, (Ask(R, 0, 32),), ahead=True)]


def test_asks_ahead_no_more_where_little_is_left_in_the_bucket() -> None:
    bench = busy()
    call_often(bench, 12)
    bench.hear(granted(1, 2))
    lease = bench.lease(R)
    assert (lease.low, lease.wanted, lease.free) == (0, 8, 5)
    bench.said()
    call_often(bench, 5)
    assert bench.said() == []


@pytest.mark.parametrize("why", ["owed", "closed", "alone"])
def test_asks_nothing_ahead_that_it_would_not_be_given(why: str) -> None:
    bench = busy()
    lease = bench.lease(R)
    if why == "owed":
        lease.owed = 5
    elif why == "closed":
        lease.closed = refused(1, R, Reason.SPENT)
    else:
        bench.leases.ledger_gone()
    call_often(bench, 15)
    assert bench.said() == []


def test_what_comes_ahead_pays_what_is_owed() -> None:
    bench = busy()
    call_often(bench, 12)
    bench.said()
    bench.hear(granted(1, 16, needed=(10,)))
    assert bench.said() == [GiveBack((Amount(R, 10),))]
    assert bench.free() == [9]


# Accounts


OF_MODELS = (
    RATE,
    Rule(kind=Kind.REQUESTS, amount=10, per="minute", model="gpt*"),
    Rule(kind=Kind.REQUESTS, amount=10, per="minute", model="m"),
    Rule(kind=Kind.TOKENS, amount=10, per="minute", model="m"),
    Rule(kind=Kind.CONCURRENT, amount=10),
    MONEY,
)


@pytest.mark.parametrize(
    ("models", "left"),
    [
        ((), ["requests/minute", "requests/minute/m"]),
        (("other",), ["requests/minute/m"]),
        (("gpt-4",), ["requests/minute/m"]),
        (("m",), []),
        (("other", "m"), []),
    ],
)
def test_limits_on_requests_that_have_counted_a_call_do_not_count_it_again(
    models: tuple[str, ...], left: list[str]
) -> None:
    """Another model took over; tokens, money and calls at once are another matter."""
    bench = Bench(*OF_MODELS)
    every = ["requests/minute/m", "requests/minute"]
    rest = [lease.name for lease in bench.account.gating if "requests" not in lease.name]
    account = bench.account.without_requests_of(models)
    names = [lease.name.removeprefix("org/acme/") for lease in account.gating]
    assert sorted(name for name in names if name in every) == sorted(left)
    assert [lease.name for lease in account.gating if "requests" not in lease.name] == rest
    assert account.rules == bench.account.rules


def test_a_limit_that_counts_without_refusing_is_left_out_as_well() -> None:
    bench = Bench(RATE, TOKENS)
    counted = bench.account.without(R)
    assert [lease.name for lease in counted.counted] == [R]
    assert counted.without_requests_of(("x",)).counted == ()
