"""What limits and budgets cost a call: three scopes with four rules each, so twelve leases.

The aim is at most 6 µs for reserving and settling together; a refusal without asking costs less.
"""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from llmrouter.contracts.rule import Kind, Rule, Scope
from llmrouter.quota.lease import Account, Amounts
from llmrouter.quota.leases import Leases
from llmrouter.quota.messages import Reason, Refused
from llmrouter.quota.reservation import Reservation
from llmrouter.quota.rulebook import Rulebook

pytestmark = pytest.mark.bench

NOW = 1_767_225_600_000
PLENTY = 1 << 40
CALL: Amounts = (1, 1_200, 4_000_000, 1, 0)
FOUR = (
    Rule(kind=Kind.REQUESTS, amount=PLENTY, per="minute"),
    Rule(kind=Kind.TOKENS, amount=PLENTY, per="minute"),
    Rule(kind=Kind.CONCURRENT, amount=PLENTY),
    Rule(kind=Kind.USD, amount=1 << 60, per="month"),
)


def worker() -> tuple[Leases, Account]:
    """A worker whose leases last for as long as it is measured."""
    scopes = [
        Scope(kind="org", name="acme"),
        Scope(kind="team", name="acme/research"),
        Scope(kind="key", name="k"),
    ]
    rulebook = Rulebook(dict.fromkeys(scopes, FOUR))
    leases = Leases(rulebook, wake=lambda: None, flush_journal=lambda: None)
    account = leases.accounts.of("acme", "research", None, "k", "gpt-4o")
    assert len(account.gating) == 12
    leases.credit(account.gating, (PLENTY, PLENTY, 1 << 58, PLENTY, 0))
    return leases, account


def test_reserve_and_settle(benchmark: BenchmarkFixture) -> None:
    leases, account = worker()

    def call() -> None:
        assert leases.reserve(account, CALL, NOW)
        Reservation(leases, account, CALL).settle(900, 3_100_000)

    benchmark(call)
    assert not leases.outbox


def test_reserve_and_release(benchmark: BenchmarkFixture) -> None:
    leases, account = worker()

    def call() -> None:
        assert leases.reserve(account, CALL, NOW)
        Reservation(leases, account, CALL).release()

    benchmark(call)
    assert not leases.outbox


def test_refuse_without_asking(benchmark: BenchmarkFixture) -> None:
    """The last of the twelve is closed: all others are looked at first."""
    leases, account = worker()
    last = account.gating[-1]
    last.free = 0
    last.closed = Refused(1, last.name, Reason.SPENT, 0, NOW, resets_at_ms=NOW + 1_000_000)
    last.closed_least = 1

    def refuse() -> None:
        assert not leases.reserve(account, CALL, NOW)
        assert leases.refusal(account, CALL, NOW) is not None

    benchmark(refuse)
    assert not leases.outbox
