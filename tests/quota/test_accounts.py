"""Which leases apply to whom, while rules change."""

from llmrouter.contracts.rule import Kind, Rule, Scope
from llmrouter.quota.accounts import ACCOUNTS_MAX, Accounts
from llmrouter.quota.lease import Lease
from llmrouter.quota.rulebook import Rulebook
from tests.quota.alone import MONEY, ORG, RATE, STRICT, TOKENS, Bench, R, T, U


def test_accounts_are_remembered_while_the_rules_stay() -> None:
    bench = Bench(TOKENS)
    account = bench.account
    assert bench.account is account
    bench.rulebook.generation = 3
    bench.rulebook.set_key("k", (MONEY,))
    changed = bench.account
    assert [lease.name for lease in changed.gating] == [T, U]
    assert changed.gating[0] is account.gating[0]
    assert (account.rules, changed.rules) == (0, 3)


def test_names_that_callers_choose_do_not_fill_the_memory() -> None:
    bench = Bench(TOKENS)
    for number in range(ACCOUNTS_MAX + 5):
        bench.leases.accounts.of("acme", None, None, "k", f"m{number}")
    assert len(bench.leases.accounts._accounts) == 5
    assert repr(bench.leases) == "<Leases buckets=1 asked=0>"


def test_the_account_of_a_scope_has_its_own_leases_and_no_others() -> None:
    """Places at an upstream."""
    place = Rule(kind=Kind.CONCURRENT, amount=3)
    rulebook = Rulebook({ORG: (RATE,), Scope(kind="upstream", name="up"): (place,)})
    accounts = Accounts(rulebook, retire=lambda lease: None)
    account = accounts.of_scope(Scope(kind="upstream", name="up"))
    assert [lease.name for lease in account.gating] == ["upstream/up/concurrent"]
    assert (account.counted, account.rules) == ((), rulebook.generation)
    assert accounts.of_scope(Scope(kind="upstream", name="up")).gating == account.gating
    callers = accounts.of("acme", None, None, "k", "m")
    assert [lease.name for lease in callers.gating] == [R]
    assert accounts.of_scope(Scope(kind="upstream", name="none")).gating == ()


def test_a_changed_rule_goes_on_with_its_lease_unless_it_counts_otherwise() -> None:
    retired: list[Lease] = []
    rulebook = Rulebook({})
    accounts = Accounts(rulebook, retired.append)

    def of_key(rule: Rule) -> Lease:
        rulebook.set_key("k", (rule,))
        (lease,) = accounts.of("acme", None, None, "k", "m").gating
        return lease

    first = of_key(MONEY)
    raised = of_key(Rule(kind=Kind.USD, amount=2_000, per="day"))
    assert (raised is first, first.capacity, retired) == (True, 2_000, [])

    strict = of_key(STRICT)

    assert (strict is first, strict.name, retired) == (False, first.name, [first])
    assert accounts.leases == {first.name: strict}
    assert repr(accounts) == "<Accounts 1 leases=1>"
