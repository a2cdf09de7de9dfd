"""The ledger: balance = capacity - used - claims, whoever asks, spends, dies or changes rules."""

import pytest

from llmrouter.contracts.rule import Kind, Rule, Scope
from llmrouter.quota.bucket import Saved
from llmrouter.quota.ledger import UNLIMITED, Charge, Ledger, read_rows
from llmrouter.quota.messages import Ask
from llmrouter.quota.rulebook import Rulebook

NOW = 1_767_225_600_000
ORG = Scope(kind="org", name="acme")
KEY = Scope(kind="key", name="k")
RATE = Rule(kind=Kind.REQUESTS, amount=60, per="minute")
TOKENS = Rule(kind=Kind.TOKENS, amount=1_000, per="minute", model="m")
MONEY = Rule(kind=Kind.USD, amount=1_000, per="day")
SLOTS = Rule(kind=Kind.CONCURRENT, amount=5)
REQUESTS, USD, AT_ONCE = "org/acme/requests/minute", "org/acme/usd/day", "org/acme/concurrent"


def ledger(saved: dict[str, Saved] | None = None) -> Ledger:
    return Ledger(Rulebook({ORG: (RATE, TOKENS, MONEY, SLOTS)}), saved or {})


def charge(
    holder: str = "one",
    model: str = "m",
    at_ms: int = NOW,
    instead_of: tuple[str, ...] = (),
    **spent: int,
) -> Charge:
    return Charge(
        holder=holder,
        org="acme",
        team=None,
        user=None,
        key_id="k",
        model=model,
        at_ms=at_ms,
        instead_of=instead_of,
        **spent,
    )


def balance(found: Ledger, bucket: str, now_ms: int = NOW) -> int:
    entry = found.entry(bucket, now_ms)
    assert entry is not None
    assert entry.balance(now_ms) == (
        entry.bucket.capacity - entry.bucket.used(now_ms) - entry.claimed()
    )
    return entry.balance(now_ms)


# Taking and giving back


@pytest.mark.parametrize(
    ("least", "wanted", "granted"),
    [
        (1, 1, 1),
        (1, 5, 5),
        (1, 100, 1 + 59 // 8),  # a part of what would be left, so that others find some
        (60, 100, 60),
        (61, 61, None),
        (0, 0, 0),
    ],
)
def test_grants_what_fits_and_some_of_what_is_left(
    least: int, wanted: int, granted: int | None
) -> None:
    found = ledger()
    amounts = found.take("one", [Ask(REQUESTS, least, wanted)], NOW)
    assert amounts == (None if granted is None else (granted,))
    assert balance(found, REQUESTS) == 60 - (granted or 0)


def test_grants_all_or_nothing() -> None:
    found = ledger()
    asks = [Ask(REQUESTS, 1, 1), Ask(AT_ONCE, 1, 1), Ask(USD, 1_001, 1_001)]
    assert found.take("one", asks, NOW) is None
    assert [balance(found, bucket) for bucket in (REQUESTS, AT_ONCE, USD)] == [60, 5, 1_000]
    assert found.take("one", asks[:2], NOW) == (1, 1)


def test_nothing_is_always_granted() -> None:
    """Also of a bucket that is overdrawn: the call needs none of it."""
    found = ledger()
    found.force("one", USD, 5_000, NOW)
    assert found.take("one", [Ask(USD, 0, 100), Ask(AT_ONCE, 1, 1)], NOW) == (0, 1)
    assert found.take_ahead("one", [Ask(USD, 0, 100)], NOW) == (0,)


def test_what_is_asked_ahead_is_granted_as_far_as_there_is_some_to_spare() -> None:
    found = ledger()
    assert found.take_ahead("one", [Ask(USD, 0, 50), Ask(REQUESTS, 0, 50)], NOW) == (50, 7)
    found.take("two", [Ask(USD, 950, 950)], NOW)
    assert found.take_ahead("one", [Ask(USD, 0, 50)], NOW) == (0,)


def test_what_comes_back_is_free_and_what_is_forced_is_not() -> None:
    found = ledger()
    found.take("one", [Ask(USD, 1_000, 1_000)], NOW)
    assert found.give_back("one", USD, 300, NOW) is found.entry(USD, NOW)
    assert balance(found, USD) == 300
    found.force("one", USD, 400, NOW)
    assert balance(found, USD) == -100


def test_a_bucket_that_no_rule_ever_made_refuses_nothing_and_counts_nothing() -> None:
    found = ledger()
    assert found.take("one", [Ask("key/gone/concurrent", 7, 9)], NOW) == (7,)
    assert found.give_back("one", "key/gone/concurrent", 7, NOW) is None
    found.force("one", "key/gone/concurrent", 7, NOW)
    assert found.entry("key/gone/concurrent", NOW) is None


# Charging


def test_charging_turns_claim_into_use_and_changes_no_balance() -> None:
    found = ledger()
    found.take("one", [Ask(REQUESTS, 3, 3), Ask(USD, 500, 500)], NOW)
    found.charge(charge(requests=1, nano_usd=200), NOW, is_live=True)
    assert (balance(found, REQUESTS), balance(found, USD)) == (57, 500)
    standing = [found.standing(one, NOW) for one in Rulebook({ORG: (RATE, MONEY)}).of_scope(ORG)]
    assert [(each.used, each.claimed) for each in standing] == [(1, 2), (200, 300)]


def test_charges_of_the_dead_claim_nothing_back() -> None:
    found = ledger()
    found.charge(charge(requests=1, nano_usd=200), NOW, is_live=False)
    assert (balance(found, REQUESTS), balance(found, USD)) == (59, 800)


def test_only_rules_that_cover_the_model_are_charged() -> None:
    found = ledger()
    found.charge(charge(model="n", tokens=10), NOW, is_live=False)
    assert balance(found, "org/acme/tokens/minute/m") == 1_000
    found.charge(charge(model="m", tokens=10), NOW, is_live=False)
    assert balance(found, "org/acme/tokens/minute/m") == 990


@pytest.mark.parametrize(
    ("models", "counted"),
    [
        (("m",), {None: 1, "m": 1, "m*": 1, "n": 0}),
        (("m", "n"), {None: 1, "m": 1, "m*": 1, "n": 1}),
        (("m", "m2"), {None: 1, "m": 1, "m*": 1, "n": 0}),
        (("n", "m2"), {None: 1, "m": 0, "m*": 1, "n": 1}),
        (("m2", "n", "m"), {None: 1, "m": 1, "m*": 1, "n": 1}),
    ],
)
def test_a_call_that_goes_on_at_other_models_is_one_request_under_each_rule(
    models: tuple[str, ...], counted: dict[str | None, int]
) -> None:
    """And what its worker reserved at each of them is claimed no more."""
    of_models = [Rule(kind=Kind.REQUESTS, amount=9, per="day", model=model) for model in counted]
    book = Rulebook({ORG: tuple(of_models)})
    found = Ledger(book, {})
    for number, model in enumerate(models):
        before = models[:number]
        reserved = [
            one.bucket
            for one in book.applying(org="acme", team=None, user=None, key_id="k", model=model)
            if not any(map(one.rule.covers, before))
        ]
        assert found.take("one", [Ask(bucket, 1, 1) for bucket in reserved], NOW) is not None
        found.charge(charge(model=model, instead_of=before, requests=1), NOW, is_live=True)

    standing = [found.standing(one, NOW) for one in book.of_scope(ORG)]
    assert [each.used for each in standing] == list(counted.values())
    assert {each.claimed for each in standing} == {0}


def test_tokens_and_money_of_every_model_count() -> None:
    found = ledger()
    spent = charge(instead_of=("m", "n"), requests=1, tokens=10, nano_usd=20)
    found.charge(spent, NOW, is_live=False)
    assert balance(found, REQUESTS) == 60
    assert balance(found, "org/acme/tokens/minute/m") == 990
    assert balance(found, USD) == 980


def test_a_late_charge_counts_from_when_it_was_spent() -> None:
    found = ledger()
    found.charge(charge(at_ms=NOW - 30_000, requests=60), NOW, is_live=False)
    assert balance(found, REQUESTS) == 30


def test_a_force_that_is_on_its_way_hides_no_claim_of_others() -> None:
    """The journal may be read before the message: then a claim is below nothing for a moment."""
    found = ledger()
    found.take("one", [Ask(USD, 100, 100)], NOW)
    found.take("two", [Ask(USD, 200, 200)], NOW)
    found.charge(charge(nano_usd=150), NOW, is_live=True)
    assert balance(found, USD) == 1_000 - 150 - 200
    found.force("one", USD, 50, NOW)
    assert balance(found, USD) == 1_000 - 150 - 200


def test_names_that_callers_choose_do_not_fill_the_memory() -> None:
    found = ledger()
    for number in range(10_000):
        found.charge(charge(model=f"m{number}", requests=1), NOW, is_live=False)
    assert len(found._applying) < 5_000
    assert repr(found) == "<Ledger buckets=3 dirty=1>"


# The end of a worker


def test_the_claims_of_a_dead_worker_vanish() -> None:
    found = ledger()
    found.take("one", [Ask(REQUESTS, 3, 3), Ask(AT_ONCE, 1, 1)], NOW)
    found.take("two", [Ask(AT_ONCE, 2, 2)], NOW)
    found.charge(charge(requests=2), NOW, is_live=True)
    assert [entry.name for entry in found.ended("one")] == [REQUESTS, AT_ONCE]
    assert (balance(found, REQUESTS), balance(found, AT_ONCE)) == (58, 3)
    assert found.ended("one") == []


def test_a_call_of_an_earlier_ledger_holds_its_place_until_it_ends() -> None:
    found = ledger()
    hold = charge("old", requests=1, tokens=100, nano_usd=50)
    found.claim(hold, NOW, sign=1)
    assert [balance(found, name) for name in (REQUESTS, USD, AT_ONCE)] == [60, 950, 4]
    found.claim(hold, NOW, sign=-1)
    assert [balance(found, name) for name in (REQUESTS, USD, AT_ONCE)] == [60, 1_000, 5]


# Rules that change


class Keyed:
    """A ledger, and the key `k` whose rules change."""

    def __init__(self, *rules: Rule) -> None:
        self.rulebook = Rulebook({ORG: (RATE,)})
        self.ledger = Ledger(self.rulebook, {})
        self.set(*rules)

    def set(self, *rules: Rule) -> list[str]:
        self.rulebook.generation += 1
        self.rulebook.set_key("k", rules)
        return [entry.name for entry in self.ledger.rules_changed(NOW)]

    def charge(self, generation: int, nano_usd: int) -> None:
        spent = charge(rules=generation, nano_usd=nano_usd)
        self.ledger.charge(spent, NOW, is_live=True)

    def take(self, amount: int) -> tuple[int, ...] | None:
        return self.ledger.take("one", [Ask("key/k/usd/day", amount, amount)], NOW)

    @property
    def state(self) -> tuple[int, dict[str, int]]:
        entry = self.ledger.entry("key/k/usd/day", NOW)
        assert entry is not None
        return entry.bucket.used(NOW), dict(entry.claims)


def test_another_amount_keeps_what_was_used_and_is_in_force_at_once() -> None:
    keyed = Keyed(MONEY)
    keyed.take(600)
    keyed.charge(1, 600)
    assert keyed.set(Rule(kind=Kind.USD, amount=500, per="day")) == ["key/k/usd/day"]
    assert balance(keyed.ledger, "key/k/usd/day") == -100
    assert keyed.take(1) is None
    assert keyed.set(Rule(kind=Kind.USD, amount=700, per="day")) == ["key/k/usd/day"]
    assert keyed.take(100) == (100,)
    assert keyed.set(Rule(kind=Kind.USD, amount=700, per="day")) == []


def test_is_in_force_before_anybody_says_that_it_changed() -> None:
    keyed = Keyed(MONEY)
    keyed.take(1)
    keyed.rulebook.set_key("k", (Rule(kind=Kind.USD, amount=10, per="day"),))
    assert keyed.take(10) is None
    assert [entry.name for entry in keyed.ledger.rules_changed(NOW)] == ["key/k/usd/day"]
    assert keyed.ledger.rules_changed(NOW) == []


def test_a_new_rule_counts_no_call_that_reserved_nothing_of_it() -> None:
    keyed = Keyed()
    keyed.set(MONEY)
    keyed.charge(1, 300)
    assert keyed.state == (0, {})
    keyed.take(100)
    keyed.charge(2, 100)
    assert keyed.state == (100, {"one": 0})


def test_what_was_reserved_under_a_rule_that_is_gone_is_charged_to_it() -> None:
    """Else the claim would stand, and block the rule when it comes back."""
    keyed = Keyed(MONEY)
    keyed.take(400)
    assert keyed.set() == ["key/k/usd/day"]
    keyed.charge(1, 150)
    keyed.ledger.give_back("one", "key/k/usd/day", 250, NOW)
    assert keyed.state == (150, {"one": 0})
    keyed.set(MONEY)
    assert balance(keyed.ledger, "key/k/usd/day") == 850


def test_a_rule_that_comes_back_counts_no_call_from_in_between() -> None:
    """Else a claim would fall below nothing, and as much could be lent twice."""
    keyed = Keyed(MONEY)
    keyed.take(100)
    keyed.set()
    keyed.set(MONEY)
    for generation in (1, 2, 3):
        keyed.charge(generation, 50)
    assert keyed.state == (100, {"one": 0})


def test_a_rule_that_is_gone_refuses_nothing_but_keeps_count() -> None:
    """A worker that has not heard of it yet still asks, and gives back."""
    keyed = Keyed(MONEY)
    keyed.set()
    assert keyed.take(5_000) == (5_000,)
    entry = keyed.ledger.entry("key/k/usd/day", NOW)
    assert entry is not None
    assert entry.balance(NOW) == UNLIMITED
    keyed.set(MONEY)
    assert balance(keyed.ledger, "key/k/usd/day") == -4_000
    keyed.ledger.give_back("one", "key/k/usd/day", 5_000, NOW)
    assert balance(keyed.ledger, "key/k/usd/day") == 1_000


# The store


def test_goes_on_from_what_was_saved() -> None:
    found = ledger()
    assert found.changes(NOW) == {}
    found.charge(charge(requests=30, tokens=7, nano_usd=400), NOW, is_live=False)
    rows = found.changes(NOW)
    assert rows == {
        "bucket/org/acme/requests/minute": b'{"used":30,"at_ms":%d}' % NOW,
        "bucket/org/acme/tokens/minute/m": b'{"used":7,"at_ms":%d}' % NOW,
        "bucket/org/acme/usd/day": b'{"used":400,"at_ms":%d}' % NOW,
    }
    assert found.changes(NOW) == {}

    again = ledger(read_rows(rows.items()))
    assert again.changes(NOW) == {}
    assert balance(again, REQUESTS, NOW + 10_000) == 40
    assert balance(again, USD, NOW + 10_000) == 600


def test_a_changed_rate_is_saved_so_that_it_drains_at_its_own_pace_from_then_on() -> None:
    keyed = Keyed(RATE)
    keyed.ledger.charge(charge(rules=1, requests=60), NOW, is_live=True)
    assert len(keyed.ledger.changes(NOW)) == 2
    keyed.set(Rule(kind=Kind.REQUESTS, amount=6, per="minute"))
    assert list(keyed.ledger.changes(NOW)) == ["bucket/key/k/requests/minute"]


def test_claims_are_never_saved() -> None:
    found = ledger()
    found.take("one", [Ask(USD, 100, 100), Ask(AT_ONCE, 1, 1)], NOW)
    assert found.changes(NOW) == {}
