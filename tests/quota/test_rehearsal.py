"""What the ledger would answer, found out on copies: the same as the real one answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.contracts.rule import QUEUE, Kind, Rule, Scope
from llmrouter.quota.desk import Desk, DeskTerms
from llmrouter.quota.lease import Account, Amounts, Lease
from llmrouter.quota.ledger import Charge, Ledger, Standing
from llmrouter.quota.messages import Ask, FromLedger, Granted, Reason, Refused, Take
from llmrouter.quota.rehearsal import Rehearsal
from llmrouter.quota.rulebook import Rulebook

NOW = 1_767_225_600_000
ACME = Scope(kind="org", name="acme")
HOLD_WAIT = 2_000
REQUESTS = Rule(kind=Kind.REQUESTS, amount=10, per="minute")
TOKENS = Rule(kind=Kind.TOKENS, amount=1_000, per="hour")
DAY = Rule(kind=Kind.USD, amount=500, per="day")
TOTAL = Rule(kind=Kind.USD, amount=500, per="total")
SLOTS = Rule(kind=Kind.CONCURRENT, amount=2, at_limit=QUEUE, wait_ms=5_000)
ONE: Amounts = (1, 100, 50, 1, 0)


class Books:
    """A ledger with some spent and some claimed, the account of a call, and its rehearsal."""

    def __init__(self, *rules: Rule, used: int = 0, claimed: int = 0) -> None:
        rulebook = Rulebook({ACME: rules})
        self.ledger = Ledger(rulebook, {})
        found = rulebook.of_scope(ACME)
        self.account = Account(tuple(map(Lease, found)))
        charge = Charge(
            holder="gone", org="acme", team=None, user=None, key_id="k", model="m", at_ms=NOW,
            requests=used, tokens=used, nano_usd=used,
        )  # fmt: skip
        self.ledger.charge(charge, NOW, is_live=False)
        for one in found:
            self.ledger.force("other", one.bucket, claimed, NOW)
        self.standings = [self.ledger.standing(one, NOW) for one in found]

    def rehearsed(self, amounts: Amounts) -> tuple[Reason, int, int | None, int] | None:
        """Why it is refused, where time helps when, and how long it waits."""
        rehearsal = Rehearsal(self.standings, NOW, hold_wait_ms=HOLD_WAIT)
        found = rehearsal.refusal(self.account, amounts)
        if found is None:
            return None
        refusal, wait_ms = found
        why = refusal.refused
        return why.reason, why.left, why.retry_at_ms, wait_ms

    def live(self, amounts: Amounts) -> tuple[Reason, int, int | None] | None:
        """What the desk answers to the same ask, if it may not wait."""
        said: list[FromLedger] = []
        desk = Desk(
            self.ledger,
            send=lambda _, message: said.append(message),
            fold=lambda: None,
            terms=DeskTerms(hold_wait_ms=HOLD_WAIT, waiting_max=9),
        )
        asks = tuple(
            Ask(one.name, amounts[one.unit], amounts[one.unit]) for one in self.account.gating
        )
        desk.take("asking", Take(1, asks, at_once=True), NOW)
        (answer,) = said
        if isinstance(answer, Granted):
            return None
        assert isinstance(answer, Refused)
        return answer.reason, answer.left, answer.retry_at_ms


@pytest.mark.parametrize(
    ("books", "amounts", "answer"),
    [
        (Books(REQUESTS, TOKENS, DAY, SLOTS), ONE, None),
        (Books(REQUESTS, used=10), ONE, (Reason.SPENT, 0, NOW + 6_000, 0)),
        (Books(REQUESTS, claimed=10), ONE, (Reason.HELD, 0, None, HOLD_WAIT)),
        (Books(TOKENS), (1, 1_001, 0, 1, 0), (Reason.TOO_LARGE, 1_000, None, 0)),
        (Books(TOTAL, used=460), ONE, (Reason.SPENT, 40, None, 0)),
        (Books(DAY, used=500), ONE, (Reason.SPENT, 0, NOW + 86_400_000, 0)),
        (Books(SLOTS, claimed=2), ONE, (Reason.WAITED, 0, None, 5_000)),
        (Books(REQUESTS, claimed=10), (0, 0, 0, 0, 0), None),
    ],
)
def test_says_why_when_and_how_long(
    books: Books, amounts: Amounts, answer: tuple[Reason, int, int | None, int] | None
) -> None:
    assert books.rehearsed(amounts) == answer


@given(
    used=st.integers(0, 600),
    claimed=st.integers(0, 600),
    amounts=st.tuples(
        st.integers(0, 12), st.integers(0, 1_200), st.integers(0, 600), st.just(0), st.just(0)
    ),
)
def test_it_answers_as_the_desk_does(used: int, claimed: int, amounts: Amounts) -> None:
    """Where several buckets are in the way, both name the one that lets it wait the shortest."""
    rehearsed = Books(REQUESTS, TOKENS, DAY, used=used, claimed=claimed).rehearsed(amounts)
    live = Books(REQUESTS, TOKENS, DAY, used=used, claimed=claimed).live(amounts)

    assert (rehearsed and rehearsed[:3]) == live


def test_what_this_worker_has_ready_is_free_for_its_calls() -> None:
    books = Books(REQUESTS, claimed=10)
    books.account.gating[0].free = 1

    assert books.rehearsed(ONE) is None


def test_a_rehearsal_changes_nothing() -> None:
    books = Books(REQUESTS, TOKENS, DAY, used=3, claimed=2)
    before = [(lease.free, lease.closed, lease.wanted) for lease in books.account.gating]

    assert books.rehearsed(ONE) is None
    assert books.rehearsed((99, 0, 0, 0, 0)) is not None

    assert [(lease.free, lease.closed, lease.wanted) for lease in books.account.gating] == before
    found = [one.found for one in books.account.gating]
    assert [books.ledger.standing(one, NOW) for one in found] == books.standings


def test_a_bucket_that_was_not_told_of_is_as_new() -> None:
    (lease,) = Books(REQUESTS).account.gating
    rehearsal = Rehearsal([], NOW, hold_wait_ms=0)

    assert rehearsal.standing(lease) == Standing(
        bucket=lease.name, capacity=10, used=0, claimed=0, resets_at_ms=NOW
    )
    assert repr(rehearsal) == f"<Rehearsal buckets=0 at_ms={NOW}>"
